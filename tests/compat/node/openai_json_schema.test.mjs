// openai-node: answers that keep to a form. The model is random: only the form keeps it to what is parsed here.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { all, MESSAGES, openai } from './brie.mjs';

const client = openai();
const City = z.object({
  name: z.string().max(12),
  size: z.enum(['town', 'city']),
  inhabitants: z.number().int().min(1).max(40_000_000),
  twins: z.array(z.object({ name: z.string().max(8), near: z.boolean() })).max(2),
  mayor: z.string().max(8).nullable(),
});
const how = { model: 'tiny', messages: MESSAGES, max_tokens: 400, response_format: zodResponseFormat(City, 'city') };

test('an answer is parsed into what was asked for', async () => {
  for (const seed of [0, 1, 2]) {
    const [choice] = (await client.chat.completions.parse({ ...how, seed })).choices;
    assert.equal(choice.finish_reason, 'stop');
    assert.deepEqual(choice.message.parsed, City.parse(JSON.parse(choice.message.content)));
  }
});

test('a stream has the same form and the same text', async () => {
  const whole = await client.chat.completions.create({ ...how, seed: 4 });
  const chunks = await all(await client.chat.completions.create({ ...how, seed: 4, stream: true }));
  const text = chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join('');
  assert.equal(text, whole.choices[0].message.content);
  City.parse(JSON.parse(text));
  const made = await client.chat.completions.stream({ ...how, seed: 4 }).finalChatCompletion();
  assert.deepEqual(made.choices[0].message.parsed, JSON.parse(text));
});

test('a JSON object is any object', async () => {
  const schemaless = { ...how, max_tokens: 200, response_format: { type: 'json_object' } };
  const [choice] = (await client.chat.completions.create({ ...schemaless, temperature: 0 })).choices;
  if (choice.finish_reason === 'stop') assert.equal(typeof JSON.parse(choice.message.content), 'object');
  assert.equal(choice.message.content.trimStart()[0], '{');
});

test('an answer that is cut off is told as such', async () => {
  const cut = { ...how, max_tokens: 3 };
  assert.equal((await client.chat.completions.create(cut)).choices[0].finish_reason, 'length');
  await assert.rejects(client.chat.completions.parse(cut), OpenAI.LengthFinishReasonError);
});

test('a schema that cannot be used is refused by its field', async () => {
  const form = (type, schema) => ({ type, json_schema: { name: 'x', schema, strict: true } });
  for (const [response_format, param] of [
    [form('json_schema', { type: 'nothing' }), /^response_format/],
    [{ type: 'json_schema' }, /^response_format\.json_schema/],
    [{ type: 'yaml' }, /^response_format\.type/],
  ]) {
    await assert.rejects(client.chat.completions.create({ ...how, response_format }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, String(error));
      assert.match(error.param, param);
      return true;
    });
  }
});
