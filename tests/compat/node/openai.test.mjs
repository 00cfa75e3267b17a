// openai-node: chat, streams, tools, files, fine-tuning and errors.
import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import OpenAI from 'openai';
import { ARGUMENTS, all, MESSAGES, openai, pause, scriptedMessages, TIME, WEATHER } from './brie.mjs';

const client = openai();
const say = (options) => client.chat.completions.create({ model: 'tiny', messages: MESSAGES, max_tokens: 12, ...options });
const REQUEST_ID = /^req_[0-9a-f]+$/;
const CALL_ID = /^call_[0-9a-f]{24}$/;

// ---- models and chat

test('models are listed and one is retrieved', async () => {
  const models = await all(client.models.list());
  assert.equal(models[0].id, 'tiny');
  assert.equal(models[0].object, 'model');
  assert.deepEqual((await client.models.retrieve('tiny')).id, 'tiny');
});

test('an answer has its text, its numbers and its reason', async () => {
  const answer = await say({ seed: 3, ignore_eos: true });
  const [choice] = answer.choices;
  assert.equal(answer.object, 'chat.completion');
  assert.equal(answer.model, 'tiny');
  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(choice.message.role, 'assistant');
  assert.ok(choice.message.content.length > 0);
  assert.equal(choice.finish_reason, 'length');
  assert.equal(answer.usage.completion_tokens, 12);
  assert.ok(answer.usage.prompt_tokens > 0);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + 12);
});

test('a seed repeats an answer and another does not', async () => {
  const texts = await Promise.all([1, 1, 2].map(async (seed) => (await say({ seed })).choices[0].message.content));
  assert.equal(texts[0], texts[1]);
  assert.notEqual(texts[0], texts[2]);
});

test('a stop string ends an answer before itself', async () => {
  const whole = (await say({ temperature: 0, max_tokens: 20 })).choices[0].message.content;
  const stop = whole.slice(whole.length >> 1).slice(0, 3);
  const [choice] = (await say({ temperature: 0, max_tokens: 20, stop: [stop] })).choices;
  assert.equal(choice.message.content, whole.slice(0, whole.indexOf(stop)));
  assert.equal(choice.finish_reason, 'stop');
});

test('several answers have the seeds that follow', async () => {
  const answer = await say({ n: 3, seed: 7 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
  const alone = await Promise.all([7, 8, 9].map((seed) => say({ seed })));
  assert.deepEqual(
    answer.choices.map((choice) => choice.message.content), alone.map((each) => each.choices[0].message.content));
});

test('every answer names its request in a header', async () => {
  const { data, response, request_id } = await client.chat.completions
    .create({ model: 'tiny', messages: MESSAGES, max_tokens: 2 }).withResponse();
  assert.equal(response.status, 200);
  assert.match(response.headers.get('x-request-id'), REQUEST_ID);
  assert.equal(request_id, response.headers.get('x-request-id'));
  assert.equal(data._request_id, request_id);
  assert.equal(response.headers.get('brie-adapter-version'), 'base');
});

test('a text is continued, whole and in a stream', async () => {
  const how = { model: 'tiny', prompt: 'Once upon', max_tokens: 6, temperature: 0 };
  const whole = await client.completions.create(how);
  const chunks = await all(await client.completions.create({ ...how, stream: true }));
  assert.equal(whole.object, 'text_completion');
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.text ?? '').join(''), whole.choices[0].text);
  assert.ok(whole.choices[0].text.length > 0);
});

// ---- streams

test('a stream is the whole answer in pieces, then its usage', async () => {
  const whole = await say({ seed: 5 });
  const { data: stream, response, request_id } = await client.chat.completions.create({
    model: 'tiny', messages: MESSAGES, max_tokens: 12, seed: 5, stream: true, stream_options: { include_usage: true },
  }).withResponse();
  assert.match(response.headers.get('content-type'), /^text\/event-stream/);
  assert.match(request_id, REQUEST_ID);
  const chunks = await all(stream);
  const usage = chunks.pop();
  assert.deepEqual(usage.choices, []);
  assert.deepEqual(usage.usage, whole.usage);
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), whole.choices[0].message.content);
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.equal(chunks.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.choices[0].finish_reason === null && chunk.usage == null));
  assert.equal(new Set([usage, ...chunks].map((chunk) => chunk.id)).size, 1);
  assert.ok(chunks.every((chunk) => chunk.object === 'chat.completion.chunk' && chunk.model === 'tiny'));
  assert.ok(chunks.length > 3);
});

test('the stream helper puts an answer together', async () => {
  const whole = await say({ seed: 5 });
  const runner = client.chat.completions.stream({
    model: 'tiny', messages: MESSAGES, max_tokens: 12, seed: 5, stream_options: { include_usage: true },
  });
  const pieces = [];
  runner.on('content', (delta) => pieces.push(delta));
  const made = await runner.finalChatCompletion();
  assert.equal(pieces.join(''), whole.choices[0].message.content);
  assert.equal(made.choices[0].message.content, whole.choices[0].message.content);
  assert.equal(made.choices[0].finish_reason, whole.choices[0].finish_reason);
  assert.deepEqual(await runner.totalUsage(), whole.usage);
});

test('logprobs of a stream are those of the whole', async () => {
  const how = { seed: 5, logprobs: true, top_logprobs: 2 };
  const [whole, stream] = await Promise.all([say(how), say({ ...how, stream: true })]);
  const streamed = (await all(stream)).flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []);
  assert.deepEqual(streamed, whole.choices[0].logprobs.content);
  assert.equal(Buffer.from(streamed.flatMap((each) => each.bytes)).toString(), whole.choices[0].message.content);
  assert.ok(streamed.every((each) => each.logprob <= 0 && each.top_logprobs.length === 2));
});

test('two streams at once do not mix', async () => {
  const wholes = await Promise.all([1, 2].map((seed) => say({ seed })));
  const streams = await Promise.all([1, 2].map((seed) => say({ seed, stream: true })));
  const texts = await Promise.all(streams.map(async (stream) =>
    (await all(stream)).map((chunk) => chunk.choices[0].delta.content ?? '').join('')));
  assert.deepEqual(texts, wholes.map((whole) => whole.choices[0].message.content));
});

// ---- tools

const speaker = openai('scripted');
const parameters = { type: 'object', properties: { city: { type: 'string' }, days: { type: 'array' } } };
const tools = ['weather', 'time'].map((name) => ({ type: 'function', function: { name, parameters } }));
const call = (options, ...turns) =>
  speaker.chat.completions.create({ model: 'scripted', messages: scriptedMessages(...turns), tools, ...options });

test('a call is an answer of its own kind', async () => {
  const [choice] = (await call({}, WEATHER)).choices;
  assert.equal(choice.finish_reason, 'tool_calls');
  assert.equal(choice.message.content, null);
  const [made] = choice.message.tool_calls;
  assert.match(made.id, CALL_ID);
  assert.deepEqual({ ...made, id: '' }, { id: '', type: 'function', function: { name: 'weather', arguments: ARGUMENTS } });
});

test('streamed calls come in deltas with index and id', async () => {
  const chunks = await all(await call({ stream: true }, `I look.\n${WEATHER}\n${TIME}`));
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), 'I look.');
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'tool_calls');
  const deltas = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  for (const [index, name, args] of [[0, 'weather', ARGUMENTS], [1, 'time', '{}']]) {
    const [first, ...others] = deltas.filter((delta) => delta.index === index);
    assert.match(first.id, CALL_ID);
    assert.equal(first.type, 'function');
    assert.equal(first.function.name, name);
    assert.ok(others.every((delta) => delta.id === undefined && delta.function.name === undefined));
    assert.equal([first, ...others].map((delta) => delta.function.arguments ?? '').join(''), args);
  }
  assert.equal(new Set(deltas.map((delta) => delta.id).filter(Boolean)).size, 2);
});

test('the helper runs tools until there is an answer', async () => {
  for (const stream of [false, true]) {
    const asked = [];
    const runner = speaker.chat.completions.runTools({
      model: 'scripted',
      messages: scriptedMessages(WEATHER, 'It is sunny.'),
      stream,
      tools: [{ type: 'function', function: {
        name: 'weather', parameters, parse: JSON.parse,
        function: (args) => { asked.push(args); return 'Sunny'; },
      } }],
    });
    assert.equal(await runner.finalContent(), 'It is sunny.');
    assert.deepEqual(asked, [{ city: 'Cádiz', days: [1, 2] }]);
    const roles = runner.messages.map((message) => message.role);
    assert.deepEqual(roles, ['system', 'user', 'assistant', 'tool', 'assistant']);
    assert.equal(runner.messages[3].tool_call_id, runner.messages[2].tool_calls[0].id);
  }
});

test('a call that has to be is begun for the model', async () => {
  const named = { type: 'function', function: { name: 'time' } };
  for (const [tool_choice, says, name] of [
    ['required', `time", "arguments": {"zone": 3}}\n</tool_call>`, 'time'],
    [named, ` {"zone": 3}}\n</tool_call>`, 'time'],
  ]) {
    const [choice] = (await call({ tool_choice }, says)).choices;
    assert.equal(choice.finish_reason, 'tool_calls');
    assert.equal(choice.message.tool_calls[0].function.name, name);
    assert.deepEqual(JSON.parse(choice.message.tool_calls[0].function.arguments), { zone: 3 });
  }
});

test('without parallel calls the first is the last, and with none there is none', async () => {
  const first = (await call({ parallel_tool_calls: false }, `${WEATHER}\n${TIME}`)).choices[0];
  assert.deepEqual(first.message.tool_calls.map((made) => made.function.name), ['weather']);
  const none = (await call({ tool_choice: 'none' }, WEATHER)).choices[0];
  assert.equal(none.message.tool_calls, undefined);
  assert.equal(none.message.content, WEATHER);
  assert.equal(none.finish_reason, 'stop');
});

// ---- files and fine-tuning

const ROWS = Array.from({ length: 8 }, (_, i) => JSON.stringify({
  messages: [{ role: 'user', content: `Say ${i}` }, { role: 'assistant', content: `Here is ${i}, gladly. 🧀` }],
}) + '\n').join('');

const upload = async (name = 'rows.jsonl', rows = ROWS) =>
  client.files.create({ file: await OpenAI.toFile(Buffer.from(rows), name), purpose: 'fine-tune' });

test('a file is kept, read and deleted', async () => {
  const path = join(await mkdtemp(join(tmpdir(), 'brie-')), 'from disk.jsonl');
  await writeFile(path, ROWS);
  const file = await client.files.create({ file: createReadStream(path), purpose: 'fine-tune' });
  assert.equal(file.object, 'file');
  assert.equal(file.filename, 'from disk.jsonl');
  assert.equal(file.purpose, 'fine-tune');
  assert.equal(file.bytes, Buffer.byteLength(ROWS));
  assert.deepEqual(await client.files.retrieve(file.id), file);
  assert.equal(await (await client.files.content(file.id)).text(), ROWS);
  assert.deepEqual(await client.files.delete(file.id), { id: file.id, object: 'file', deleted: true });
  await assert.rejects(client.files.retrieve(file.id), (error) =>
    error instanceof OpenAI.NotFoundError && error.status === 404 && error.code === 'file_not_found');
});

test('files are listed page by page', async () => {
  const made = [];
  for (const name of ['a.jsonl', 'b.jsonl', 'c.jsonl']) made.push((await upload(name)).id);
  const page = await client.files.list({ limit: 2, purpose: 'fine-tune' });
  assert.equal(page.data.length, 2);
  assert.equal(page.has_more, true);
  assert.ok(page.hasNextPage());
  const listed = (await all(client.files.list({ limit: 2, order: 'asc' }))).map((file) => file.id);
  assert.deepEqual(listed.filter((id) => made.includes(id)), made);
  assert.equal(new Set(listed).size, listed.length);
  for (const id of made) await client.files.delete(id);
});

test('a file that cannot be trained on is refused by its line', async () => {
  await assert.rejects(upload('bad.jsonl', `${ROWS}{"messages": \n`), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, 'invalid_training_file');
    assert.match(error.message, /line 9/i);
    return true;
  });
});

test('a model is tuned, watched and asked', async () => {
  const file = await upload();
  const job = await client.fineTuning.jobs.create({
    model: 'tiny', training_file: file.id, validation_file: file.id, suffix: 'node', seed: 3, metadata: { who: 'node' },
    method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 2, batch_size: 4 } } },
  });
  assert.equal(job.object, 'fine_tuning.job');
  assert.equal(job.status, 'validating_files');
  let done = job;
  for (let i = 0; i < 400 && !['succeeded', 'failed', 'cancelled'].includes(done.status); i += 1) {
    await pause(300);
    done = await client.fineTuning.jobs.retrieve(job.id);
  }
  assert.equal(done.status, 'succeeded', JSON.stringify(done.error));
  assert.match(done.fine_tuned_model, /^ft:tiny:brie:node:/);
  assert.deepEqual(done.metadata, { who: 'node' });
  assert.equal(done.method.supervised.hyperparameters.n_epochs, 2);
  assert.ok(done.trained_tokens > 0);

  const events = await all(client.fineTuning.jobs.listEvents(job.id, { limit: 3 }));
  assert.ok(events.length > 3);
  assert.equal(new Set(events.map((event) => event.id)).size, events.length);
  assert.equal(events[0].message, 'The job has successfully completed');
  assert.equal(events.at(-1).message, 'Created fine-tuning job');
  const trained = events.filter((event) => event.type === 'metrics' && 'train_loss' in event.data);
  assert.deepEqual(new Set(trained.map((event) => event.data.step)), new Set([1, 2, 3, 4]));

  const checkpoints = await all(client.fineTuning.jobs.checkpoints.list(job.id, { limit: 1 }));
  assert.deepEqual(checkpoints.map((checkpoint) => checkpoint.step_number), [4, 2]);
  assert.ok(checkpoints.every((checkpoint) => checkpoint.fine_tuning_job_id === job.id));
  const names = ['node', done.fine_tuned_model, checkpoints[1].fine_tuned_model_checkpoint];
  for (const model of names) {
    const { data, response } = await client.chat.completions.create({ model, messages: MESSAGES, max_tokens: 2 }).withResponse();
    assert.equal(data.model, model);
    assert.match(response.headers.get('brie-adapter-version'), /^[0-9a-f]{64}$/);
  }
  const columns = (await (await client.files.content(done.result_files[0])).text()).split('\n')[0];
  assert.ok(columns.startsWith('step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,'), columns);
  const found = await all(client.fineTuning.jobs.list({ limit: 1, metadata: { who: 'node' } }));
  assert.deepEqual(found.map((each) => each.id), [job.id]);
  for (const model of names.slice(0, 2)) assert.equal((await client.models.delete(model)).deleted, true);
  await assert.rejects(client.models.retrieve('node'), OpenAI.NotFoundError);
});

test('a job is cancelled once', async () => {
  const file = await upload();
  const job = await client.fineTuning.jobs.create({
    model: 'tiny', training_file: file.id, hyperparameters: { n_epochs: 50 },
  });
  assert.equal((await client.fineTuning.jobs.cancel(job.id)).status, 'cancelled');
  await assert.rejects(client.fineTuning.jobs.cancel(job.id), (error) =>
    error instanceof OpenAI.BadRequestError && error.code === 'job_already_finished');
});

// ---- errors

const refused = (promise, kind, expected) => assert.rejects(promise, (error) => {
  assert.ok(error instanceof kind, String(error));
  const { status, code, param, type } = error;
  assert.deepEqual({ status, code, param, type }, { type: 'invalid_request_error', ...expected });
  assert.match(error.requestID, REQUEST_ID);
  return true;
});

test('what cannot be is an error of its own class', async () => {
  await refused(say({ model: 'nobody' }), OpenAI.NotFoundError, { status: 404, code: 'model_not_found', param: 'model' });
  await refused(say({ temperature: 3 }), OpenAI.BadRequestError,
    { status: 400, code: 'invalid_value', param: 'temperature' });
  await refused(say({ messages: [...MESSAGES, { role: 'user', content: 3 }] }), OpenAI.BadRequestError,
    { status: 400, code: 'invalid_value', param: 'messages[1].content' });
  await refused(say({ messages: [{ role: 'user', content: 'x '.repeat(3000) }], stream: true }), OpenAI.BadRequestError,
    { status: 400, code: 'context_length_exceeded', param: 'messages' });
  await refused(client.fineTuning.jobs.create({ model: 'tiny', training_file: 'file-none' }), OpenAI.BadRequestError,
    { status: 400, code: 'file_not_found', param: 'training_file' });
  await refused(client.fineTuning.jobs.retrieve('ftjob-none'), OpenAI.NotFoundError,
    { status: 404, code: 'job_not_found', param: 'id' });
});

test('a wrong key is an error of authentication', async () => {
  await refused(openai('scripted', { apiKey: 'wrong' }).models.list(), OpenAI.AuthenticationError,
    { status: 401, code: 'invalid_api_key', param: null });
});

test('a stream that fails midway is an error, after what was said', async () => {
  const said = [];
  await assert.rejects(async () => {
    const stream = await call({ stream: true, tools: undefined }, null);
    for await (const chunk of stream) said.push(chunk.choices[0].delta.content ?? '');
  }, (error) => {
    assert.ok(error instanceof OpenAI.APIError);
    assert.equal(error.code, 'engine_failure');
    assert.equal(error.type, 'server_error');
    assert.match(error.message, /was to fail/);
    assert.match(error.requestID, REQUEST_ID);
    return true;
  });
  assert.equal(said.join(''), 'I fail');
  await assert.rejects(call({ tools: undefined }, null), (error) =>
    error instanceof OpenAI.InternalServerError && error.status === 500 && error.code === 'engine_failure');
});
