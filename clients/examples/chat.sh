#!/bin/sh
# Stream an answer with curl:  sh clients/examples/chat.sh [model] [question]
url=${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}
model=${1:-smollm2-135m-instruct}
question=${2:-Who was Spinoza?}

curl --silent --show-error --fail-with-body --no-buffer "$url/chat/completions" \
  --header 'content-type: application/json' \
  --data "{\"model\": \"$model\", \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}], \"max_tokens\": 100, \"stream\": true}"
