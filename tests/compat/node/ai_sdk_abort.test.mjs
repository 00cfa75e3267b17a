// The Vercel AI SDK: whoever leaves, in whatever way, makes room. The server has one place, and its answers take minutes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { APICallError, generateText, streamText } from 'ai';
import { aiSdk, all, pause, QUESTION } from './brie.mjs';

const given = { model: aiSdk('narrow')('tiny'), prompt: QUESTION, maxRetries: 0, timeout: 20_000 };
const long = { ...given, maxOutputTokens: 60_000, providerOptions: { brie: { ignore_eos: true } } };

// Answered only if the place is free again: the one who had it would go on for minutes.
const roomIsFree = async () => {
  const answer = await generateText({ ...given, maxOutputTokens: 2 });
  assert.equal(answer.usage.outputTokens, 2);
};

test('aborting a stream makes room', async () => {
  const leaving = new AbortController();
  const kinds = [];
  for await (const part of streamText({ ...long, abortSignal: leaving.signal }).stream) {
    kinds.push(part.type);
    if (part.type === 'text-delta') leaving.abort();
  }
  assert.equal(kinds.at(-1), 'abort');
  await roomIsFree();
});

test('aborting a whole answer makes room', async () => {
  const leaving = new AbortController();
  const answer = assert.rejects(generateText({ ...long, abortSignal: leaving.signal }), { name: 'AbortError' });
  await pause(300);
  leaving.abort();
  await answer;
  await roomIsFree();
});

test('a timeout makes room', async () => {
  await assert.rejects(generateText({ ...long, timeout: 500 }), /timeout/i);
  await roomIsFree();
});

test('who finds no room may try again, and does', async () => {
  const leaving = [new AbortController(), new AbortController()];
  const streams = leaving.map(({ signal }) => streamText({ ...long, abortSignal: signal, onError: () => {} }));
  const ends = streams.map((stream) => all(stream.stream));
  await pause(500);
  await assert.rejects(generateText(long), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.deepEqual([error.statusCode, error.isRetryable], [429, true]);
    assert.equal(error.data.error.code, 'server_overloaded');
    return true;
  });
  const statuses = [];
  const watched = async (...request) => {
    const response = await fetch(...request);
    statuses.push(response.status);
    return response;
  };
  const model = aiSdk('narrow', { fetch: watched })('tiny');
  const patient = generateText({ ...given, model, maxOutputTokens: 2, maxRetries: 4 });
  while (statuses.length === 0) await pause(10);
  for (const each of leaving) each.abort();
  await Promise.all(ends);
  assert.equal((await patient).usage.outputTokens, 2);
  assert.deepEqual(statuses, [429, 200]);
});
