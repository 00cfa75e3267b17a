"""Base model + LoRA adapter in, one folder of verified files out. It knows folders and files; no server, no job.

    sources = pipeline reads the request: adapter, tokenizer, what the adapter's brie.json tells
    output  = _FORMATS[request.format](request, sources)    # plans, and refuses what llama.cpp would get wrong
    made    = output.build(folder, scratch, progress)       # one pass: merge in f32, a block of rows at a time; verify
    card and manifest are written from what was made, and one rename publishes all

For a GGUF file: `architecture` and `plan` say what every tensor becomes, `vocabulary` and `metadata` fill the header,
`gguf_file` writes, `quantize` hands it to llama.cpp, `verify` asks llama.cpp about texts, prompts and ends of answers,
and `judgement` holds its logits against those that `reference`, a process with torch, computes meanwhile.

`python -m brie_convert.run FOLDER` is an export as a process, `python -m brie_convert.inspect FILE` is `brie verify`.
Every step takes values and paths and gives some back, so each can be used, and tested, alone.
"""
