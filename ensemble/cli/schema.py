"""`ensemble schema`: every key of an experiment file."""

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The JSON schema, for editors that complete and check.")
def schema(as_json: bool) -> None:
    """List every key of an experiment file with its default and meaning.

    \b
    ensemble schema                        read it
    ensemble schema --json > schema.json   point your editor to it
    """
    from ensemble.config import render_json_schema, render_schema_text

    text = render_json_schema() if as_json else render_schema_text()
    click.echo(text, nl=not text.endswith("\n"))
