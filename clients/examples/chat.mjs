// Stream an answer with nothing but Node's fetch:  node clients/examples/chat.mjs [model] [question]
const url = process.env.OPENAI_BASE_URL ?? 'http://127.0.0.1:8000/v1';
const [model = 'smollm2-135m-instruct', question = 'Who was Spinoza?'] = process.argv.slice(2);

const response = await fetch(`${url}/chat/completions`, {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ model, messages: [{ role: 'user', content: question }], max_tokens: 100, stream: true }),
});
if (!response.ok) throw new Error((await response.json()).error.message);

const decoder = new TextDecoder();
let rest = '';
for await (const bytes of response.body) {
  const events = (rest + decoder.decode(bytes, { stream: true })).split('\n\n');
  rest = events.pop();
  for (const event of events) {
    const data = event.slice('data: '.length);
    if (data !== '[DONE]') process.stdout.write(JSON.parse(data).choices[0]?.delta.content ?? '');
  }
}
process.stdout.write('\n');
