// The Vercel AI SDK with @ai-sdk/open-responses: texts, streams and tools over /v1/responses.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { APICallError, generateText, isStepCount, jsonSchema, streamText, tool } from 'ai';
import { aiSdkResponses, all, ARGUMENTS, pause, QUESTION, scriptOf, TIME, WEATHER } from './brie.mjs';

const speaker = aiSdkResponses('scripted')('scripted');
const talk = (...turns) => ({ model: speaker, instructions: scriptOf(...turns), prompt: QUESTION, maxRetries: 0 });
const how = { model: aiSdkResponses()('tiny'), prompt: QUESTION, maxOutputTokens: 16, temperature: 0, maxRetries: 0 };
const weatherOf = (asked) => tool({
  inputSchema: jsonSchema({ type: 'object', properties: { city: { type: 'string' }, days: { type: 'array' } } }),
  execute: async (input) => { asked.push(input); return { sky: 'clear' }; },
});

test('a text has its numbers, its reason and its headers', async () => {
  const answer = await generateText(how);
  assert.ok(answer.text.length > 0);
  assert.ok(answer.usage.inputTokens > 0);
  assert.equal(answer.usage.totalTokens, answer.usage.inputTokens + answer.usage.outputTokens);
  assert.match(answer.response.headers['x-request-id'], /^req_/);
  assert.match(answer.response.id, /^resp_/);
  assert.equal((await generateText(talk('A glass grinder.'))).finishReason, 'stop');
  assert.equal((await generateText(talk('A glass grinder.'))).text, 'A glass grinder.');
});

test('a stream is the whole text in pieces, then its usage', async () => {
  const whole = await generateText(how);
  const answer = streamText(how);
  const pieces = await all(answer.textStream);
  assert.ok(pieces.length > 3);
  assert.equal(pieces.join(''), whole.text);
  assert.equal(await answer.finishReason, whole.finishReason);
  const usage = await answer.usage;
  assert.deepEqual(
    [usage.inputTokens, usage.outputTokens], [whole.usage.inputTokens, whole.usage.outputTokens]);
});

test('tools are called until there is a text, whole and streamed', async () => {
  for (const ask of [generateText, streamText]) {
    const asked = [];
    const answer = ask({
      ...talk(`${WEATHER}\n${TIME}`, 'It is sunny.'), stopWhen: isStepCount(3),
      tools: { weather: weatherOf(asked), time: tool({ inputSchema: jsonSchema({ type: 'object' }), execute: () => 9 }) },
    });
    const { text, steps } = ask === generateText ? await answer : { text: await answer.text, steps: await answer.steps };
    assert.equal(text, 'It is sunny.');
    assert.deepEqual(asked, [JSON.parse(ARGUMENTS)]);
    assert.deepEqual(steps[0].toolCalls.map((call) => call.toolName), ['weather', 'time']);
    assert.deepEqual(steps.map((step) => step.finishReason), ['tool-calls', 'stop']);
  }
});

test('what cannot be is an error with its status, code and field', async () => {
  await assert.rejects(generateText({ ...how, model: aiSdkResponses()('nobody') }), (error) => {
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, 404);
    assert.match(error.responseBody, /model_not_found/);
    return true;
  });
});

test('a stream that fails midway is an error, after what was said', async () => {
  const parts = await all(streamText({ ...talk(null), onError: () => {} }).stream);
  assert.equal(parts.filter((part) => part.type === 'text-delta').map((part) => part.text).join(''), 'I fail');
  const errors = parts.filter((part) => part.type === 'error').map((part) => part.error);
  assert.ok(errors.length > 0 && errors.every((error) => /was to fail/.test(error.message)));
  assert.equal(errors[0].code, 'engine_failure');
  assert.equal(parts.at(-1).finishReason, 'error');
});

test('whoever leaves makes room', async () => {
  // minutes are not to be had here: the provider sends no ignore_eos; the rest of the context is long enough
  const long = { model: aiSdkResponses('narrow')('tiny'), prompt: QUESTION, maxRetries: 0, timeout: 20_000 };
  const leaving = new AbortController();
  const whole = assert.rejects(generateText({ ...long, maxOutputTokens: 60_000, abortSignal: leaving.signal }), { name: 'AbortError' });
  await pause(500);
  leaving.abort();
  await whole;
  const answer = await generateText({ ...long, maxOutputTokens: 16 });
  assert.ok(answer.usage.outputTokens > 0);
});
