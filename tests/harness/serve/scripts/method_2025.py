# As written for gpt-4o-mini: wait_for_processing, a method, metadata, checkpoints, a stream.
import sys
import time
from pathlib import Path

import openai

path, model = Path(sys.argv[1]), "gpt-3.5-turbo-0125"
uploaded = openai.files.create(file=path, purpose="fine-tune")
validation = openai.files.create(file=Path(sys.argv[2]), purpose="fine-tune")
openai.files.wait_for_processing(uploaded.id)
job = openai.fine_tuning.jobs.create(
    model=model,
    training_file=uploaded.id,
    validation_file=validation.id,
    suffix="tickets",
    seed=7,
    metadata={"run": "1"},
    method={
        "type": "supervised",
        "supervised": {
            "hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 10}
        },
    },
)
seen = set()
while job.status not in {"succeeded", "failed", "cancelled"}:
    for event in reversed(openai.fine_tuning.jobs.list_events(job.id, limit=10).data):
        if event.id not in seen:
            seen.add(event.id)
            print(event.created_at, event.level, event.message)
    time.sleep(0.2)
    job = openai.fine_tuning.jobs.retrieve(job.id)
print("status", job.status)
if job.error and job.error.message:
    sys.exit(job.error.message)
for checkpoint in openai.fine_tuning.jobs.checkpoints.list(job.id):
    print(checkpoint.step_number, checkpoint.metrics.train_loss)
    stream = openai.chat.completions.create(
        model=checkpoint.fine_tuned_model_checkpoint,
        messages=[{"role": "user", "content": "my lamp 4 is broken"}],
        temperature=0,
        max_completion_tokens=20,
        stream=True,
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="")
print("answer", job.fine_tuned_model)
