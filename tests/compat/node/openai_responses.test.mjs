// openai-node: responses, whole, streamed, kept and with tools.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { ARGUMENTS, all, LONG, openai, pause, QUESTION, scriptOf, TIME, WEATHER } from './brie.mjs';

const client = openai();
const speaker = openai('scripted');
const how = { model: 'tiny', input: QUESTION, max_output_tokens: 16, store: false };
const talk = (options, ...turns) =>
  speaker.responses.create({ model: 'scripted', instructions: scriptOf(...turns), input: QUESTION, ...options });
const parameters = { type: 'object', properties: { city: { type: 'string' }, days: { type: 'array' } } };
const tools = ['weather', 'time'].map((name) => ({ type: 'function', name, parameters, strict: false }));

test('a response has its text, its items and its usage', async () => {
  const { data: answer, response } = await client.responses.create({ ...how, seed: 3, ignore_eos: true }).withResponse();
  assert.equal(answer.object, 'response');
  assert.match(answer.id, /^resp_/);
  assert.equal(answer.model, 'tiny');
  assert.equal(answer.status, 'incomplete');
  assert.deepEqual(answer.incomplete_details, { reason: 'max_output_tokens' });
  assert.equal(answer.error, null);
  const [item] = answer.output;
  assert.equal(item.type, 'message');
  assert.equal(item.role, 'assistant');
  assert.match(item.id, /^msg_/);
  assert.deepEqual(item.content.map((part) => part.type), ['output_text']);
  assert.equal(answer.output_text, item.content[0].text);
  assert.ok(answer.output_text.length > 0);
  assert.equal(answer.usage.output_tokens, 16);
  assert.equal(answer.usage.total_tokens, answer.usage.input_tokens + 16);
  assert.match(response.headers.get('x-request-id'), /^req_/);
  const ended = await talk({}, 'A glass grinder.');
  assert.deepEqual([ended.output_text, ended.status, ended.incomplete_details], ['A glass grinder.', 'completed', null]);
});

test('a stream is the whole response in OpenAIs events', async () => {
  const whole = await client.responses.create({ ...how, seed: 5, ignore_eos: true });
  const events = await all(await client.responses.create({ ...how, seed: 5, ignore_eos: true, stream: true }));
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
  const kinds = events.map((event) => event.type).filter((kind, i, kinds) => kind !== kinds[i - 1]);
  assert.deepEqual(kinds, [
    'response.created', 'response.in_progress', 'response.output_item.added', 'response.content_part.added',
    'response.output_text.delta', 'response.output_text.done', 'response.content_part.done',
    'response.output_item.done', 'response.incomplete',
  ]);
  const deltas = events.filter((event) => event.type === 'response.output_text.delta');
  assert.ok(deltas.length > 3);
  assert.equal(deltas.map((event) => event.delta).join(''), whole.output_text);
  assert.deepEqual(events.at(-1).response.usage, whole.usage);
  assert.equal(new Set(deltas.map((event) => event.item_id)).size, 1);
});

test('the stream helper puts a response together', async () => {
  const whole = await client.responses.create({ ...how, seed: 5 });
  const stream = client.responses.stream({ ...how, seed: 5 });
  const pieces = [];
  stream.on('response.output_text.delta', (event) => pieces.push(event.delta));
  const made = await stream.finalResponse();
  assert.equal(pieces.join(''), whole.output_text);
  assert.equal(made.output_text, whole.output_text);
  assert.equal(made.status, whole.status);
  assert.deepEqual(made.usage, whole.usage);
});

test('calls are items, and their results go on', async () => {
  const script = scriptOf(`I look.\n${WEATHER}\n${TIME}`, 'It is sunny.');
  const asked = { model: 'scripted', instructions: script, tools };
  const first = await speaker.responses.create({ ...asked, input: QUESTION });
  const calls = first.output.filter((item) => item.type === 'function_call');
  assert.equal(first.output_text, 'I look.');
  assert.deepEqual(calls.map((call) => [call.name, call.arguments]), [['weather', ARGUMENTS], ['time', '{}']]);
  assert.ok(calls.every((call) => /^fc_/.test(call.id) && /^call_/.test(call.call_id) && call.status === 'completed'));
  const results = calls.map((call) => ({ type: 'function_call_output', call_id: call.call_id, output: 'Sunny' }));
  const sent = await speaker.responses.create({
    ...asked, input: [{ role: 'user', content: QUESTION }, ...first.output, ...results] });
  const kept = await speaker.responses.create({ ...asked, input: results, previous_response_id: first.id });
  assert.deepEqual([sent.output_text, kept.output_text], ['It is sunny.', 'It is sunny.']);
  assert.equal(kept.previous_response_id, first.id);
});

test('streamed calls come in deltas', async () => {
  const events = await all(await talk({ tools, stream: true }, WEATHER));
  const added = events.find((event) => event.type === 'response.output_item.added').item;
  assert.deepEqual([added.type, added.name, added.arguments], ['function_call', 'weather', '']);
  const deltas = events.filter((event) => event.type === 'response.function_call_arguments.delta');
  assert.ok(deltas.length > 3);
  assert.ok(deltas.every((event) => event.item_id === added.id));
  assert.equal(deltas.map((event) => event.delta).join(''), ARGUMENTS);
  const done = events.find((event) => event.type === 'response.function_call_arguments.done');
  assert.equal(done.arguments, ARGUMENTS);
  assert.equal(events.at(-1).type, 'response.completed');
  assert.equal(events.at(-1).response.output[0].call_id, added.call_id);
});

test('a response is kept, its input listed page by page, and deleted', async () => {
  const items = ['One', 'Two', 'Three'].map((content) => ({ role: 'user', content }));
  const made = await client.responses.create({ ...how, store: true, input: items });
  const { _request_id: _, ...found } = await client.responses.retrieve(made.id);
  assert.deepEqual([found.id, found.output_text, found.usage], [made.id, made.output_text, made.usage]);
  const listed = await all(client.responses.inputItems.list(made.id, { limit: 2, order: 'asc' }));
  assert.deepEqual(listed.map((item) => item.content[0].text), ['One', 'Two', 'Three']);
  await client.responses.delete(made.id);
  await assert.rejects(client.responses.retrieve(made.id), OpenAI.NotFoundError);
  const unkept = await client.responses.create(how);
  await assert.rejects(client.responses.retrieve(unkept.id), OpenAI.NotFoundError);
});

test('input is counted as it is asked', async () => {
  const asked = await client.responses.create(how);
  const counted = await client.responses.inputTokens.count({ model: 'tiny', input: QUESTION });
  assert.equal(counted.input_tokens, asked.usage.input_tokens);
});

test('what cannot be is refused by its field', async () => {
  for (const [wrong, kind, code, param] of [
    [{ model: 'nobody' }, OpenAI.NotFoundError, 'model_not_found', 'model'],
    [{ temperature: 3 }, OpenAI.BadRequestError, 'invalid_value', 'temperature'],
    [{ input: 'x '.repeat(3000) }, OpenAI.BadRequestError, 'context_length_exceeded', 'input'],
    [{ previous_response_id: 'resp_none' }, OpenAI.BadRequestError, 'previous_response_not_found', 'previous_response_id'],
  ]) {
    await assert.rejects(client.responses.create({ ...how, ...wrong }), (error) => {
      assert.ok(error instanceof kind, String(error));
      assert.equal(error.code, code);
      assert.equal(error.param, param);
      return true;
    });
  }
});

test('a stream that fails midway says so', async () => {
  const events = [];
  await assert.rejects(async () => {
    for await (const event of await talk({ stream: true }, null)) events.push(event);
  }, (error) => {
    assert.ok(error instanceof OpenAI.APIError, String(error));
    assert.deepEqual([error.code, error.type, error.param], ['engine_failure', 'server_error', null]);
    assert.match(error.message, /was to fail/);
    return true;
  });
  const said = events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta);
  assert.equal(said.join(''), 'I fail');
});

test('whoever leaves makes room', async () => {
  const narrow = openai('narrow', { timeout: 20_000 });
  const { max_tokens, ...long } = { ...LONG, max_output_tokens: LONG.max_tokens, input: QUESTION };
  for await (const event of await narrow.responses.create({ ...long, stream: true })) {
    if (event.type === 'response.output_text.delta') break;
  }
  const leaving = new AbortController();
  const whole = assert.rejects(narrow.responses.create(long, { signal: leaving.signal }), OpenAI.APIUserAbortError);
  await pause(500);
  leaving.abort();
  await whole;
  const answer = await narrow.responses.create({ ...how, max_output_tokens: 16 });
  assert.ok(answer.usage.output_tokens > 0);
});
