// openai-node: whoever leaves, in whatever way, makes room. The server has one place, and its answers take minutes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { LONG, MESSAGES, openai, pause, SHORT } from './brie.mjs';

const client = openai('narrow', { timeout: 20_000 });
const create = (options, more) => client.chat.completions.create({ messages: MESSAGES, ...LONG, ...options }, more);

// Answered only if the place is free again: the one who had it would go on for minutes.
const roomIsFree = async () => {
  const answer = await client.chat.completions.create(SHORT);
  assert.equal(answer.usage.completion_tokens, 2);
};

async function streaming(options) {
  const stream = await create({ stream: true, ...options });
  await stream[Symbol.asyncIterator]().next();
  return stream;
}

test('leaving the loop over a stream makes room', async () => {
  for await (const chunk of await create({ stream: true })) {
    assert.equal(chunk.object, 'chat.completion.chunk');
    break;
  }
  await roomIsFree();
});

test('aborting a stream makes room', async () => {
  const stream = await streaming();
  stream.controller.abort();
  await roomIsFree();
});

test('a signal ends a whole answer and makes room', async () => {
  const leaving = new AbortController();
  const answer = assert.rejects(create({}, { signal: leaving.signal }), OpenAI.APIUserAbortError);
  await pause(300);
  leaving.abort();
  await answer;
  await roomIsFree();
});

test('a timeout ends a whole answer and makes room', async () => {
  await assert.rejects(create({}, { timeout: 500 }), OpenAI.APIConnectionTimeoutError);
  await roomIsFree();
});

test('who finds no room is told when to come back, and who leaves the queue makes room there', async () => {
  const holder = await streaming();
  const leaving = new AbortController();
  const waiting = assert.rejects(create({ stream: true }, { signal: leaving.signal }), OpenAI.APIUserAbortError);
  await pause(300);
  await assert.rejects(create(), (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.equal(error.status, 429);
    assert.equal(error.code, 'server_overloaded');
    assert.ok(Number(error.headers.get('retry-after')) > 0);
    return true;
  });
  leaving.abort();
  await waiting;
  const next = client.chat.completions.create(SHORT);
  await pause(300);
  holder.controller.abort();
  assert.equal((await next).usage.completion_tokens, 2);
});

test('the client comes back by itself when it was told to', async () => {
  const statuses = [];
  const watched = async (...request) => {
    const response = await fetch(...request);
    statuses.push(response.status);
    return response;
  };
  const holder = await streaming();
  const leaving = new AbortController();
  const waiting = assert.rejects(create({ stream: true }, { signal: leaving.signal }), OpenAI.APIUserAbortError);
  await pause(300);
  const patient = openai('narrow', { fetch: watched, maxRetries: 4, timeout: 20_000 }).chat.completions.create(SHORT);
  while (statuses.length === 0) await pause(10);
  leaving.abort();
  holder.controller.abort();
  await waiting;
  assert.equal((await patient).usage.completion_tokens, 2);
  assert.deepEqual(statuses, [429, 200]);
});
