"""A stranger's scorer: lines whose numbers are small."""


def small(question, steps):
    return -sum(int(word) for step in steps for word in step.split() if word.isdecimal())
