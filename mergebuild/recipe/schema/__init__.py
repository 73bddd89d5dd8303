"""The JSON schema of recipes and of mergekit files, for editors to complete and check with.

Made of the tables that the readers use: their keys, words and names, and the methods' declarations.
A schema knows the form of a file and not what its parts mean to each other, so it lets some pass
that the readers refuse, and none the other way round.

    terms      what texts, numbers and mappings are, in both dialects
    values     the parameters of methods
    merge      nodes of kind merge, the tokenizer included
    kinds      the other kinds
    documents  whole files
"""

from mergebuild.recipe.schema.documents import mergekit_schema, recipe_schema

__all__ = ["mergekit_schema", "recipe_schema"]
