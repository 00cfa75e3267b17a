// The Vercel AI SDK with @ai-sdk/openai-compatible: text, streams, tools and errors.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { APICallError, generateText, isStepCount, jsonSchema, streamText, tool } from 'ai';
import { aiSdk, all, ARGUMENTS, QUESTION, scriptOf, TIME, WEATHER } from './brie.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false; // they are asserted below
const provider = aiSdk();
const model = provider('tiny');
const how = { model, prompt: QUESTION, maxOutputTokens: 12, maxRetries: 0 };
const REQUEST_ID = /^req_[0-9a-f]+$/;

// ---- text

test('a text has its numbers, its reason and its headers', async () => {
  const answer = await generateText({ ...how, seed: 3, providerOptions: { brie: { ignore_eos: true } } });
  assert.ok(answer.text.length > 0);
  assert.equal(answer.finishReason, 'length');
  assert.equal(answer.usage.outputTokens, 12);
  assert.ok(answer.usage.inputTokens > 0);
  assert.equal(answer.usage.totalTokens, answer.usage.inputTokens + 12);
  assert.equal(answer.response.modelId, 'tiny');
  assert.match(answer.response.id, /^chatcmpl-/);
  assert.match(answer.response.headers['x-request-id'], REQUEST_ID);
  assert.ok(Math.abs(Date.now() - answer.response.timestamp) < 60_000);
  assert.deepEqual(answer.warnings ?? [], []);
});

test('a seed repeats a text and another does not', async () => {
  const [first, same, other] = await Promise.all([1, 1, 2].map((seed) => generateText({ ...how, seed })));
  assert.equal(first.text, same.text);
  assert.notEqual(first.text, other.text);
});

test('instructions are the system message', async () => {
  const how = { model: aiSdk('scripted')('scripted'), prompt: QUESTION, maxRetries: 0 };
  const answer = await generateText({ ...how, instructions: scriptOf('A glass grinder.') });
  assert.equal(answer.text, 'A glass grinder.');
  assert.equal(answer.finishReason, 'stop');
});

test('a stop sequence ends a text before itself', async () => {
  const whole = (await generateText({ ...how, temperature: 0, maxOutputTokens: 20 })).text;
  const stop = whole.slice(whole.length >> 1).slice(0, 3);
  const cut = await generateText({ ...how, temperature: 0, maxOutputTokens: 20, stopSequences: [stop] });
  assert.equal(cut.text, whole.slice(0, whole.indexOf(stop)));
  assert.equal(cut.finishReason, 'stop');
});

test('fields of vLLM go through as provider options', async () => {
  const texts = await Promise.all([1, 2].map((seed) =>
    generateText({ ...how, seed, temperature: 2, providerOptions: { brie: { top_k: 1 } } })));
  assert.equal(texts[0].text, texts[1].text);
});

test('a text is continued by the completion model', async () => {
  const completing = provider.completionModel('tiny');
  const given = { model: completing, prompt: 'Once upon', maxOutputTokens: 6, seed: 4, maxRetries: 0 };
  const whole = await generateText(given);
  const stream = streamText(given);
  assert.equal((await all(stream.textStream)).join(''), whole.text);
  assert.equal(whole.usage.outputTokens, (await stream.usage).outputTokens);
  assert.equal(whole.finishReason, await stream.finishReason);
});

// ---- streams

test('a stream is the whole text in pieces, then its usage', async () => {
  const whole = await generateText({ ...how, seed: 5 });
  const answer = streamText({ ...how, seed: 5 });
  const parts = await all(answer.stream);
  const deltas = parts.filter((part) => part.type === 'text-delta').map((part) => part.text);
  assert.ok(deltas.length > 3);
  assert.equal(deltas.join(''), whole.text);
  assert.equal(await answer.text, whole.text);
  assert.equal(await answer.finishReason, whole.finishReason);
  const { inputTokens, outputTokens, totalTokens } = await answer.usage;
  assert.deepEqual({ inputTokens, outputTokens, totalTokens }, {
    inputTokens: whole.usage.inputTokens, outputTokens: whole.usage.outputTokens, totalTokens: whole.usage.totalTokens,
  });
  const kinds = parts.map((part) => part.type).filter((kind, i, kinds) => kind !== kinds[i - 1]);
  assert.deepEqual(kinds, ['start', 'start-step', 'text-start', 'text-delta', 'text-end', 'finish-step', 'finish']);
  const response = await answer.response;
  assert.equal(response.modelId, 'tiny');
  assert.match(response.id, /^chatcmpl-/);
  assert.match(response.headers['x-request-id'], REQUEST_ID);
});

// ---- tools

const speaker = aiSdk('scripted')('scripted');
const weatherOf = (asked) => tool({
  description: 'The weather of a city',
  inputSchema: jsonSchema({ type: 'object', properties: { city: { type: 'string' }, days: { type: 'array' } } }),
  execute: async (input) => { asked.push(input); return { sky: 'clear' }; },
});
const time = tool({ inputSchema: jsonSchema({ type: 'object', properties: {} }) });
const talk = (...turns) => ({ model: speaker, instructions: scriptOf(...turns), prompt: QUESTION, maxRetries: 0 });

test('tools are called until there is a text', async () => {
  const asked = [];
  const answer = await generateText({
    ...talk(`I look.\n${WEATHER}`, 'It is sunny.'), tools: { weather: weatherOf(asked) }, stopWhen: isStepCount(3),
  });
  assert.deepEqual(asked, [JSON.parse(ARGUMENTS)]);
  assert.equal(answer.text, 'It is sunny.');
  assert.deepEqual(answer.steps.map((step) => step.finishReason), ['tool-calls', 'stop']);
  const [step] = answer.steps;
  assert.equal(step.text, 'I look.');
  assert.match(step.toolCalls[0].toolCallId, /^call_[0-9a-f]{24}$/);
  assert.equal(step.toolResults[0].toolCallId, step.toolCalls[0].toolCallId);
  assert.deepEqual(step.toolResults[0].output, { sky: 'clear' });
});

test('streamed calls come in pieces and are run', async () => {
  const asked = [];
  const answer = streamText({
    ...talk(`${WEATHER}\n${TIME}`, 'It is sunny.'), tools: { weather: weatherOf(asked), time: { ...time, execute: () => 9 } },
    stopWhen: isStepCount(3),
  });
  const parts = await all(answer.stream);
  const calls = parts.filter((part) => part.type === 'tool-call');
  assert.deepEqual(calls.map((call) => [call.toolName, call.input]), [['weather', JSON.parse(ARGUMENTS)], ['time', {}]]);
  const typed = parts.filter((part) => part.type === 'tool-input-delta' && part.id === calls[0].toolCallId);
  assert.ok(typed.length > 3);
  assert.equal(typed.map((part) => part.delta).join(''), ARGUMENTS);
  assert.deepEqual(asked, [JSON.parse(ARGUMENTS)]);
  assert.equal(parts.filter((part) => part.type === 'text-delta').map((part) => part.text).join(''), 'It is sunny.');
  assert.deepEqual((await answer.steps).map((step) => step.finishReason), ['tool-calls', 'stop']);
});

test('a tool can be required, named or forbidden', async () => {
  const tools = { weather: weatherOf([]), time };
  const required = await generateText({
    ...talk('time", "arguments": {}}\n</tool_call>'), tools, toolChoice: 'required' });
  assert.deepEqual(required.toolCalls.map((call) => call.toolName), ['time']);
  const named = await generateText({
    ...talk(' {}}\n</tool_call>'), tools, toolChoice: { type: 'tool', toolName: 'time' } });
  assert.deepEqual(named.toolCalls.map((call) => [call.toolName, call.input]), [['time', {}]]);
  const none = await generateText({ ...talk(WEATHER), tools, toolChoice: 'none' });
  assert.deepEqual([none.toolCalls, none.text, none.finishReason], [[], WEATHER, 'stop']);
});

test('a call of a tool that was not offered is text', async () => {
  const answer = await generateText({ ...talk(TIME), tools: { weather: weatherOf([]) } });
  assert.deepEqual(answer.toolCalls, []);
  assert.equal(answer.text, TIME);
});

// ---- errors

const refused = (promise, status, expected) => assert.rejects(promise, (error) => {
  assert.ok(APICallError.isInstance(error), String(error));
  assert.equal(error.statusCode, status);
  const { code, param, type } = error.data.error;
  assert.deepEqual({ code, param, type }, { type: 'invalid_request_error', ...expected });
  assert.equal(error.message, error.data.error.message);
  assert.match(error.responseHeaders['x-request-id'], REQUEST_ID);
  assert.equal(error.isRetryable, status === 429 || status >= 500);
  return true;
});

test('what cannot be is an error with its status, code and field', async () => {
  await refused(generateText({ ...how, model: provider('nobody') }), 404, { code: 'model_not_found', param: 'model' });
  await refused(generateText({ ...how, temperature: 3 }), 400, { code: 'invalid_value', param: 'temperature' });
  await refused(generateText({ ...how, prompt: 'x '.repeat(3000) }), 400,
    { code: 'context_length_exceeded', param: 'messages' });
  await refused(generateText({ ...how, model: aiSdk('scripted', { apiKey: 'wrong' })('scripted') }), 401,
    { code: 'invalid_api_key', param: null });
});

test('a stream that is refused is one error', async () => {
  const errors = [];
  const answer = streamText({ ...how, model: provider('nobody'), onError: ({ error }) => errors.push(error) });
  const parts = await all(answer.stream);
  assert.deepEqual(parts.filter((part) => part.type === 'error').map((part) => part.error), errors);
  assert.equal(errors.length, 1);
  assert.ok(APICallError.isInstance(errors[0]));
  assert.equal(errors[0].statusCode, 404);
});

test('a stream that fails midway is an error, after what was said', async () => {
  const errors = [];
  const parts = await all(streamText({ ...talk(null), onError: ({ error }) => errors.push(error) }).stream);
  assert.equal(parts.filter((part) => part.type === 'text-delta').map((part) => part.text).join(''), 'I fail');
  const [failed] = parts.filter((part) => part.type === 'error').map((part) => part.error);
  assert.deepEqual(failed.data, { message: 'This was to fail.', type: 'server_error', param: null, code: 'engine_failure' });
  assert.equal(errors.length, 1);
  assert.equal(parts.at(-1).finishReason, 'error');
});
