"""Options that a command has not, and that users of another tool will type: what there is instead."""

from abc import abstractmethod

import click


class InsteadCommand(click.Command):
    """A command that says what there is instead of an option that another tool has."""

    @abstractmethod
    def instead_of(self, word: str) -> str | None:
        """Return what there is instead of the option ``word``; None where nobody means anything."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse ``args``; of an option that is not there, say what there is instead.

        Raises:
            NoSuchOption: it is not there.
        """
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            if (what := self.instead_of(exc.option_name)) is None:
                raise
            message = f"{exc.option_name} is not there: {what}."
            raise click.NoSuchOption(exc.option_name, message, ctx=ctx) from None
