"""One protocol for all mechanisms: `attnkit rank` trains the rows of a table and keeps them.

protocol (what is trained) -> cells (trains a row's runs) -> row (its numbers, in one file) ->
table (all rows, with verdicts) -> output (terminal, Markdown, page, CSV, JSON)
"""
