// openai-node: embeddings.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { openai } from './brie.mjs';

const client = openai();
const TEXTS = ['A cheese', 'Who was Spinoza?', '🧀 is'];
const length = (vector) => Math.hypot(...vector);

test('each input has a vector of length one, in their order', async () => {
  const { data: answer, response } = await client.embeddings.create({ model: 'tiny', input: TEXTS }).withResponse();
  assert.equal(answer.object, 'list');
  assert.equal(answer.model, 'tiny');
  assert.deepEqual(answer.data.map((each) => [each.object, each.index]), TEXTS.map((_, i) => ['embedding', i]));
  assert.ok(answer.data.every((each) => each.embedding.length === 64 && Math.abs(length(each.embedding) - 1) < 1e-5));
  assert.ok(answer.usage.prompt_tokens > TEXTS.length);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens);
  assert.match(response.headers.get('x-request-id'), /^req_/);
  const alone = await client.embeddings.create({ model: 'tiny', input: TEXTS[1] });
  assert.ok(alone.data[0].embedding.every((value, i) => Math.abs(value - answer.data[1].embedding[i]) < 1e-4));
});

test('numbers and base64 hold the same', async () => {
  const [told, packed, read] = await Promise.all([{ encoding_format: 'float' }, { encoding_format: 'base64' }, {}].map(
    async (how) => (await client.embeddings.create({ model: 'tiny', input: 'A cheese', ...how })).data[0].embedding));
  const bytes = Buffer.from(packed, 'base64');
  const unpacked = Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
  assert.equal(unpacked.length, told.length);
  // the SDK asks for base64 where nothing is said, and reads it
  assert.deepEqual(read, unpacked);
  assert.ok(told.every((value, i) => Math.abs(value - unpacked[i]) < 1e-6));
});

test('what cannot be embedded is refused by its field', async () => {
  for (const [how, param] of [[{ input: [] }, 'input'], [{ input: ['a', ''] }, 'input[1]'], [{ dimensions: 0 }, 'dimensions']]) {
    await assert.rejects(client.embeddings.create({ model: 'tiny', input: 'A cheese', ...how }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, String(error));
      assert.equal(error.param, param);
      return true;
    });
  }
  await assert.rejects(client.embeddings.create({ model: 'nobody', input: 'x' }), (error) =>
    error instanceof OpenAI.NotFoundError && error.code === 'model_not_found');
});
