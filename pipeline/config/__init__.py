"""Recipes and command lines, torch-free: YAML and flags, or Python keyword arguments -> dataclasses.

A recipe is read as text and turned into flags in front of the user's, and keyword arguments are turned into flags too,
so that one parser converts and checks all of them. The flags are declared in `pipeline.arguments`.
"""

from pipeline.config.command_line import CommandLine, read_call, read_command_line
from pipeline.config.early import check, checked_call, choices_that_fit
from pipeline.config.other_tools import REMOVED
from pipeline.config.parse import parse
from pipeline.config.recipes import RECIPES, recipe_as_flags, recipe_path, shipped_recipes
from pipeline.config.verbs import VERBS
from pipeline.config.words import flag_name

__all__ = [
    "RECIPES",
    "REMOVED",
    "VERBS",
    "CommandLine",
    "check",
    "checked_call",
    "choices_that_fit",
    "flag_name",
    "parse",
    "read_call",
    "read_command_line",
    "recipe_as_flags",
    "recipe_path",
    "shipped_recipes",
]
