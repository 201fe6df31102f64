"""Answers under way: streaming, tabs, side-by-side comparison."""
