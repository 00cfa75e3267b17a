"""Base model + LoRA adapter in, one verified GGUF file out. It knows folders and files; no server, no job, no database.

    architecture = read_architecture(base.config)                 # numbers; refuses what llama.cpp would get wrong
    tensors      = plan_tensors(architecture, base.tensors, adapter, "F16")     # pure data, every tensor accounted for
    vocabulary   = read_vocabulary(base.folder, tokenizer, rows)  # tokens, merges, template, ends of answers
    fields       = header(architecture, vocabulary, origin, parameters, file_type)
    write_gguf(file, Contents(family, fields, tensors, rope_factors), advance)  # one pass: merge in f32, permute, cast
    quantize(file, smaller, "q4_k_m", advance)                    # llama.cpp, with a small buffer
    verify(smaller, tokenizer, vocabulary)                        # 3,000 texts, stop tokens, prompt, an answer

`pipeline.export` does all of it and publishes by one rename; `python -m brie_convert.run FOLDER` is that as a process.
Every step takes values and paths and gives some back, so each can be used, and tested, alone.
"""
