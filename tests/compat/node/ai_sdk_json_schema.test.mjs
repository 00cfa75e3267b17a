// The Vercel AI SDK with @ai-sdk/openai-compatible: answers that keep to a form. The model is random.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { APICallError, generateObject, generateText, jsonSchema, NoObjectGeneratedError, Output, streamText } from 'ai';
import { z } from 'zod';
import { aiSdk, all, QUESTION } from './brie.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false; // they are asserted below
const model = aiSdk('real', { supportsStructuredOutputs: true })('tiny');
const City = z.object({
  name: z.string().max(12), size: z.enum(['town', 'city']), inhabitants: z.number().int().min(1).max(40_000_000),
});
const how = { model, prompt: QUESTION, maxOutputTokens: 300, maxRetries: 0 };

test('an object is what its schema says', async () => {
  for (const seed of [0, 1]) {
    const answer = await generateText({ ...how, seed, output: Output.object({ schema: City }) });
    assert.deepEqual(answer.output, City.parse(JSON.parse(answer.text)));
    assert.equal(answer.finishReason, 'stop');
    assert.deepEqual(answer.warnings ?? [], []);
  }
  const { object } = await generateObject({ ...how, seed: 1, schema: City });
  assert.deepEqual(object, City.parse(object));
});

test('a streamed object grows into the whole', async () => {
  const whole = await generateText({ ...how, seed: 3, output: Output.object({ schema: City }) });
  const answer = streamText({ ...how, seed: 3, output: Output.object({ schema: City }) });
  const parts = await all(answer.partialOutputStream);
  assert.ok(parts.length > 1);
  assert.deepEqual(parts.at(-1), whole.output);
  assert.deepEqual(await answer.output, whole.output);
});

test('a choice is one of its options, a list a list of its kind', async () => {
  const options = ['sunny', 'rainy', 'snowy'];
  const choice = await generateText({ ...how, seed: 5, output: Output.choice({ options }) });
  assert.ok(options.includes(choice.output));
  const element = jsonSchema({ type: 'object', properties: { on: { type: 'boolean' } }, required: ['on'], additionalProperties: false });
  const list = await generateText({ ...how, seed: 5, temperature: 0.5, output: Output.array({ element }) }).catch((error) => {
    assert.ok(NoObjectGeneratedError.isInstance(error), String(error)); // a list without an end may be cut off
    assert.equal(error.finishReason, 'length');
    return { output: [] };
  });
  assert.ok(list.output.every((each) => typeof each.on === 'boolean'));
});

test('an answer that is cut off is no object', async () => {
  await assert.rejects(async () => {
    const answer = await generateText({ ...how, maxOutputTokens: 3, output: Output.object({ schema: City }) });
    return answer.output;
  }, (error) => NoObjectGeneratedError.isInstance(error) || /no output/i.test(error.message));
});

test('a schema that cannot be used is refused by its field', async () => {
  const schema = jsonSchema({ type: 'nothing' });
  await assert.rejects(generateText({ ...how, output: Output.object({ schema }) }), (error) => {
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, 400);
    assert.match(error.data.error.param, /^response_format/);
    return true;
  });
});
