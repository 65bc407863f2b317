"""Run every benchmark: ``python -m bench``; JSON lines and plots go to ``bench/results/``."""

from bench import context, partial

if __name__ == "__main__":
    partial.main()
    context.main()
