"""Fetching the recipes that a recipe includes: files beside it, on the Hub, in git repositories.

Owns the references and where fetched things are kept. Must not know what stands in a recipe.
"""

from mergebuild.include.fetch import Fetcher
from mergebuild.include.git import Repositories

__all__ = ["Fetcher", "Repositories"]
