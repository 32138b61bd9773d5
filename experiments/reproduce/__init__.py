"""Published tables, reproduced: what each row is, how it is run, and the page on which it stands beside the paper's.

    python -m experiments.reproduce iwae --size quick --only vae-1 iwae-5

`tables` says what there is, `work` trains and measures a seed of a row, `records` keeps what came of it, and `page`
makes `experiments/RESULTS.md` and its pictures of what is kept.
"""
