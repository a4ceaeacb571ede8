"""What somebody writes who only wants the replies: the yardstick of benchmarks/replies.py."""

import asyncio
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI


async def main(base_url: str, cases: str, in_flight: int, models: list[str]) -> None:
    """Ask every model every case, `in_flight` at once, and print how many answers came."""
    client = AsyncOpenAI(base_url=base_url, api_key="none")
    room = asyncio.Semaphore(in_flight)

    async def ask(model: str, messages: list[dict[str, str]]) -> str | None:
        async with room:
            completion = await client.chat.completions.create(
                model=model, messages=messages, temperature=0, seed=0, max_tokens=128
            )
            return completion.choices[0].message.content

    rows = [json.loads(line)["messages"][:-1] for line in Path(cases).read_text().splitlines()]
    replies = await asyncio.gather(*(ask(model, row) for model in models for row in rows))
    print(sum(reply is not None for reply in replies))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
