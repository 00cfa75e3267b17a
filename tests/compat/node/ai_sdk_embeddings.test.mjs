// The Vercel AI SDK with @ai-sdk/openai-compatible: embeddings.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { APICallError, cosineSimilarity, embed, embedMany } from 'ai';
import { aiSdk } from './brie.mjs';

const model = aiSdk().embeddingModel('tiny');
const TEXTS = ['A cheese', 'Who was Spinoza?', '🧀 is'];

test('texts have vectors in their order, alone and together', async () => {
  const many = await embedMany({ model, values: TEXTS, maxRetries: 0 });
  assert.equal(many.embeddings.length, TEXTS.length);
  assert.ok(many.embeddings.every((vector) => vector.length === 64 && Math.abs(Math.hypot(...vector) - 1) < 1e-5));
  assert.ok(many.usage.tokens > TEXTS.length);
  let tokens = 0;
  for (const [index, value] of TEXTS.entries()) {
    const one = await embed({ model, value, maxRetries: 0 });
    assert.ok(cosineSimilarity(one.embedding, many.embeddings[index]) > 0.99999);
    tokens += one.usage.tokens;
  }
  assert.equal(many.usage.tokens, tokens);
  assert.ok(cosineSimilarity(many.embeddings[0], many.embeddings[1]) < 0.9999);
});

test('what cannot be embedded is refused by its field', async () => {
  await assert.rejects(embed({ model, value: '', maxRetries: 0 }), (error) => {
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, 400);
    assert.equal(error.data.error.param, 'input[0]');
    return true;
  });
});
