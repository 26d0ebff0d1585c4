"""Run by a test in a process of its own, which it kills in the middle.

Arguments: the folder of benchmarks, the file for the results, a file that
gets a line for every item scored, and after how many calls to stop and wait.
"""

import json
import sys
import time
from pathlib import Path

from llmbook.evaluation.harness import evaluate
from tests.evaluated import tiny

TASKS = ["mmlu_cloze", "gsm8k", "perplexity"]
OPTIONS = {
    "corpus": ["Ona lost the kite.", "Tam found it.", "It was red."],
    "batch_size": 2,
    "max_new_tokens": 8,
    "progress": False,
}


class Counted(type(tiny())):
    """Writes down what it scored, and at a given call waits for its end."""

    def __init__(self, count: Path, wait_after: int) -> None:
        super().__init__(tiny().model, tiny().tokenizer)
        self.count, self.left = count, wait_after

    def loglikelihoods(self, pairs):
        self.wait()
        found = super().loglikelihoods(pairs)
        self.note([[list(before), list(after)] for before, after in pairs])
        return found

    def generate(self, prompts, *arguments, **choices):
        self.wait()
        found = super().generate(prompts, *arguments, **choices)
        self.note([list(prompt) for prompt in prompts])
        return found

    def wait(self) -> None:
        if self.left == 0:
            self.count.with_suffix(".waiting").touch()
            time.sleep(60)  # the test ends this process sooner
        self.left -= 1

    def note(self, scored) -> None:
        with open(self.count, "a") as file:
            file.writelines(json.dumps(item) + "\n" for item in scored)


if __name__ == "__main__":
    folder, out, count, wait_after = sys.argv[1:]
    model = Counted(Path(count), int(wait_after))
    evaluate(model, TASKS, folder=folder, out=out, **OPTIONS)
