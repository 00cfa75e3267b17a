// openai-node: calls whose arguments keep to a tool's schema, of a model that is random.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { zodFunction } from 'openai/helpers/zod';
import { z } from 'zod';
import { all, MESSAGES, openai } from './brie.mjs';

const client = openai('narrow', { timeout: 60_000 }); // whose context is long enough for these tools
const Weather = z.object({ city: z.string().max(12), days: z.number().int().min(1).max(14), unit: z.enum(['C', 'F']) });
const Time = z.object({ zone: z.enum(['UTC', 'CET']) });
const tools = [zodFunction({ name: 'weather', parameters: Weather }), zodFunction({ name: 'time', parameters: Time })];
const named = { type: 'function', function: { name: 'time' } };
const how = { model: 'tiny', messages: MESSAGES, max_tokens: 300, tools, parallel_tool_calls: false };

test('a call that is required or named is made, and its arguments fit', async () => {
  for (const [tool_choice, names] of [['required', ['weather', 'time']], [named, ['time']]]) {
    for (const seed of [1, 2]) {
      const [choice] = (await client.chat.completions.parse({ ...how, seed, tool_choice })).choices;
      assert.equal(choice.finish_reason, 'tool_calls');
      const [call] = choice.message.tool_calls;
      assert.ok(names.includes(call.function.name));
      const schema = call.function.name === 'time' ? Time : Weather;
      assert.deepEqual(call.function.parsed_arguments, schema.parse(JSON.parse(call.function.arguments)));
    }
  }
});

test('streamed, it is the same call', async () => {
  const asked = { ...how, seed: 1, tool_choice: named };
  const whole = (await client.chat.completions.create(asked)).choices[0].message.tool_calls[0].function;
  const chunks = await all(await client.chat.completions.create({ ...asked, stream: true }));
  const deltas = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  assert.equal(deltas[0].function.name, whole.name);
  assert.equal(deltas.map((delta) => delta.function.arguments ?? '').join(''), whole.arguments);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'tool_calls');
});
