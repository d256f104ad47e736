"""A run: how it is made, resumed, ended early and reported."""
