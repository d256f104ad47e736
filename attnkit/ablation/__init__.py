"""Ablation studies: train many variants of a recipe and compare them in one table."""
