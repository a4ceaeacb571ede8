# As written for gpt-3.5-turbo in 2023: top-level hyperparameters, a polling loop, a CSV of metrics.
import base64
import sys
import time

from openai import OpenAI

client = OpenAI()
with open(sys.argv[1], "rb") as training:
    file = client.files.create(file=training, purpose="fine-tune")
with open(sys.argv[2], "rb") as validation:
    other = client.files.create(file=validation, purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    training_file=file.id,
    validation_file=other.id,
    model="gpt-3.5-turbo-0125",
    hyperparameters={"n_epochs": 2, "learning_rate_multiplier": 10},
    seed=7,
)
while True:
    job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status in ("succeeded", "failed", "cancelled"):
        break
    time.sleep(0.2)
print("status", job.status)
for event in client.fine_tuning.jobs.list_events(fine_tuning_job_id=job.id, limit=100).data:
    print(event.message)
content = client.files.content(job.result_files[0]).read()
try:
    text = base64.b64decode(content, validate=True).decode()
except ValueError:
    text = content.decode()
print(text)
completion = client.chat.completions.create(
    model=job.fine_tuned_model,
    messages=[
        {"role": "system", "content": "Name the thing."},
        {"role": "user", "content": "my kettle 3 is broken"},
    ],
    temperature=0,
    max_tokens=20,
)
print("answer", repr(completion.choices[0].message.content))
