"""A stranger's task: is the sum of the numbers even or odd?"""

import random
import re

from pydantic import BaseModel

from graphs.tasks import TaskData

STEP = r"[0-9]{1,2} \+ [0-9] = [0-9]{1,2}"


class Options(BaseModel):
    rows: int = 40


def load(options, seed, base=None):
    rng = random.Random(seed)
    questions = sorted({" ".join(str(rng.randint(1, 9)) for _ in range(3)) for _ in range(2 * options.rows)})
    splits = {"train": questions[::2], "validation": questions[1::2]}
    sft = {k: [{"prompt": prompt(q), "completion": "\n".join(solution(q))} for q in v] for k, v in splits.items()}
    pairs = {
        k: [{"prompt": prompt(q), "chosen": solution(q)[0], "rejected": "1 + 1 = 3"} for q in v]
        for k, v in splits.items()
    }
    prompts = {k: [{"id": q, "question": q, "prompt": prompt(q)} for q in v] for k, v in splits.items()}
    return TaskData(sft, pairs, prompts)


def solution(question):
    a, b, c = map(int, question.split())
    return [f"{a} + {b} = {a + b}", f"{a + b} + {c} = {a + b + c}", f"ANSWER: {'odd' if (a + b + c) % 2 else 'even'}"]


def prompt(question, board=(), persona=""):
    return [{"role": "user", "content": f"Add: {question}\n" + "\n".join(board)}]


def check(question, response):
    return response.strip().split("\n")[-1] == solution(question)[-1]


def validate_question(question):
    return " ".join(re.findall("[0-9]+", question))
