// Where the cases find Brie, and what they say to it. Started by test_node_clients.py, which sets BRIE_*.
import { File } from 'node:buffer';
import OpenAI from 'openai';
import { createOpenResponses } from '@ai-sdk/open-responses';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';

globalThis.File ??= File; // Node 18 has it, but not there, and openai-node says to do this

const PLACES = {
  real: [process.env.BRIE_URL, 'none'], // API and worker over a tiny random model, `tiny`
  scripted: [process.env.BRIE_SCRIPTED_URL, 'brie-key'], // says what the conversation's script lists, turn by turn
  narrow: [process.env.BRIE_NARROW_URL, 'none'], // one place, one to wait in, and answers of minutes
};

export const openai = (place = 'real', options = {}) =>
  new OpenAI({ baseURL: `${PLACES[place][0]}/v1`, apiKey: PLACES[place][1], maxRetries: 0, ...options });

export const aiSdk = (place = 'real', options = {}) =>
  createOpenAICompatible({
    name: 'brie', baseURL: `${PLACES[place][0]}/v1`, apiKey: PLACES[place][1], includeUsage: true, ...options,
  });

export const aiSdkResponses = (place = 'real', options = {}) =>
  createOpenResponses({ name: 'brie', url: `${PLACES[place][0]}/v1/responses`, apiKey: PLACES[place][1], ...options });

export const QUESTION = 'Who was Spinoza?';
export const MESSAGES = [{ role: 'user', content: QUESTION }];
export const scriptOf = (...turns) => `<script>${JSON.stringify(turns)}</script>`;
export const scriptedMessages = (...turns) => [{ role: 'system', content: scriptOf(...turns) }, ...MESSAGES];

export const ARGUMENTS = '{"city": "Cádiz", "days": [1, 2]}';
export const callOf = (name, args) => `<tool_call>\n{"name": "${name}", "arguments": ${args}}\n</tool_call>`;
export const WEATHER = callOf('weather', ARGUMENTS);
export const TIME = callOf('time', '{}');

export async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// An answer that takes minutes: whoever is answered meanwhile has its place.
export const LONG = { model: 'tiny', max_tokens: 60_000, ignore_eos: true };
export const SHORT = { model: 'tiny', max_tokens: 2, messages: MESSAGES };
