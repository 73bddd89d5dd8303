"""From a plan to checkpoints: scheduling, evaluating, staging and publishing.

    options.py  what the user lets a run do    rounds.py  plans carried out, again where need be

Nothing is imported here: what only plans has no use for the rest.
"""
