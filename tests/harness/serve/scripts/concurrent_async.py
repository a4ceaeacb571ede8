# As written with the asynchronous client: several prompts at once, before and after training.
import asyncio
import sys

from openai import AsyncOpenAI


async def main() -> None:
    async with AsyncOpenAI() as client:
        file = await client.files.create(
            file=("train.jsonl", open(sys.argv[1], "rb").read()), purpose="fine-tune"
        )
        validation = await client.files.create(file=open(sys.argv[2], "rb"), purpose="fine-tune")
        job = await client.fine_tuning.jobs.create(
            training_file=file.id,
            validation_file=validation.id,
            model="gpt-3.5-turbo-0125",
            hyperparameters={"n_epochs": 2, "learning_rate_multiplier": 10.0},
            seed=7,
        )
        while job.status not in ("succeeded", "failed", "cancelled"):
            await asyncio.sleep(0.2)
            job = await client.fine_tuning.jobs.retrieve(job.id)
        print("status", job.status)
        models = ["gpt-3.5-turbo-0125", job.fine_tuned_model] * 8
        replies = await asyncio.gather(*(ask(client, model) for model in models))
        print(len(set(replies[::2])), len(set(replies[1::2])))
        print("answer", replies[1])


async def ask(client: AsyncOpenAI, model: str) -> str:
    done = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "my radio 5 is broken"}],
        temperature=0,
        max_tokens=16,
    )
    return done.choices[0].message.content or ""


asyncio.run(main())
