"""Bad recipes: every mistake with its place and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergebuild.errors import RecipeError
from mergebuild.recipe import load_recipe
from tests.test_recipe import METHODS, parse

# What is written, and what is said: "line:column message", below it the hint.
BAD = {
    "empty": (
        "",
        """\
1:1 the recipe is empty
  see 'mergebuild init' for a recipe to start from
""",
    ),
    "empty documents": (
        """\
---
---
""",
        """\
1:1 the recipe is empty
  see 'mergebuild init' for a recipe to start from
""",
    ),
    "text": (
        "just text",
        """\
1:1 a document must be a mapping, not the text 'just text'
  a recipe starts with keys such as 'merge_method:'
""",
    ),
    "list": (
        """\
- a
- b
""",
        """\
1:1 a document must be a mapping, not a list
  a recipe starts with keys such as 'merge_method:'
""",
    ),
    "flow not closed": (
        "a: [",
        """\
1:5 not valid YAML: did not find expected node content
  while parsing a flow node
""",
    ),
    "tab": (
        "a:\n\tb: 1",
        """\
2:1 not valid YAML: found character that cannot start any token
  indent with spaces, and quote text that starts with one of @ ` % & * ! | >
""",
    ),
    "quote not closed": (
        "a: 'x",
        """\
1:6 not valid YAML: found unexpected end of stream
  while scanning a quoted scalar
""",
    ),
    "python tag": (
        """\
x: !!python/object:os.system {}
merge_method: passthrough
models: [{model: o/x}]
""",
        """\
1:4 tag '!!python/object:os.system' is not allowed
  write plain values without tags
""",
    ),
    "tag": (
        "x: !foo 1",
        """\
1:4 tag '!foo' is not allowed
  write plain values without tags
""",
    ),
    "run together": (
        """\
merge_method: passthrough
models: [{model: o/x}]
merge_method: passthrough
models: [{model: o/x}]
""",
        """\
3:1 duplicate key 'merge_method': a second configuration starts
  separate two configurations with a line '---' and give the first a 'name:'
""",
    ),
    "control character": (
        "a\u0000b",
        """\
1:2 character U+0000 is not allowed in YAML
  is this a text file?
""",
    ),
    "anchor in itself": (
        "a: &x [*x]",
        "1:8 anchor 'x' contains itself\n",
    ),
    "undefined anchor": (
        "a: *y",
        """\
1:4 undefined anchor 'y'
  known are: none
""",
    ),
    "deep": (
        "[" * 100,
        "1:65 nested more than 64 levels deep\n",
    ),
    "unknown method": (
        """\
merge_method: dare_tie
base_model: o/b
models: [{model: o/x, parameters: {weight: 1}}]
""",
        """\
1:15 node 'r': unknown method 'dare_tie'
  did you mean 'dare_ties'?
""",
    ),
    "misspelled key": (
        """\
merge_methd: dare_ties
models: [{model: o/x}]
""",
        """\
1:1 node 'r': unknown key 'merge_methd' in the configuration
  did you mean 'merge_method'?
1:1 node 'r': 'dare_ties' needs a base
  name it under 'base_model:'
""",
    ),
    "misspelled model": (
        """\
merge_method: dare_ties
base_model: o/b
models: [{modle: o/x}]
""",
        """\
3:10 node 'r': model 'o/x' needs the parameter 'weight'
  give it under the model's 'parameters:', or under the node's for all models
3:11 node 'r': unknown key 'modle' in an entry of 'models'
  did you mean 'model'?
""",
    ),
    "bare model": (
        """\
merge_method: dare_ties
base_model: o/b
models: [o/x]
""",
        """\
3:10 node 'r': an entry of 'models' must be a mapping, not the text 'o/x'
  write '- model: o/x'
""",
    ),
    "no models": (
        """\
merge_method: dare_ties
base_model: o/b
models: []
""",
        "3:9 node 'r': 'models' must not be empty\n",
    ),
    "models mapping": (
        """\
merge_method: dare_ties
base_model: o/b
models: {}
""",
        "3:9 node 'r': 'models' must be a list, not a mapping\n",
    ),
    "empty model": (
        """\
merge_method: dare_ties
base_model: o/b
models: [{}]
""",
        "3:10 node 'r': an entry of 'models' has no 'model'\n",
    ),
    "null model": (
        """\
merge_method: dare_ties
base_model: o/b
models: [null]
""",
        "3:10 node 'r': an entry of 'models' has no 'model'\n",
    ),
    "no body": (
        """\
merge_method: dare_ties
base_model: o/b
""",
        """\
1:1 node 'r': none of 'models', 'slices' and 'modules' is given
  list the models to merge under 'models:'
""",
    ),
    "required parameter": (
        """\
merge_method: dare_ties
base_model: o/b
models: [{model: o/x}]
""",
        """\
3:10 node 'r': model 'o/x' needs the parameter 'weight'
  give it under the model's 'parameters:', or under the node's for all models
""",
    ),
    "two bodies": (
        """\
merge_method: dare_ties
base_model: o/b
models: [{model: o/x, parameters: {weight: 1}}]
slices: []
""",
        """\
4:1 node 'r': 'slices' and 'models' exclude each other
  keep one of 'models', 'slices' and 'modules'
""",
    ),
    "types, bounds, twice": (
        """\
merge_method: dare_ties
base_model: o/b
models:
- {model: o/x, parameters: {weight: abc, density: 1.5}}
- {model: o/x, parameters: {weight: [1, .nan], density: [0, [1]]}}
""",
        """\
4:37 node 'r': parameter 'weight' must be a number, not the text 'abc'
4:51 node 'r': parameter 'density' must be between 0 and 1, not 1.5
5:3 node 'r': model 'o/x' stands twice in one slice
  add up its weights, or delete one of the two
5:41 node 'r': parameter 'weight' must be finite, not .nan
5:61 node 'r': parameter 'density' has a list inside a list
  a gradient is a flat list of values
""",
    ),
    "conditions": (
        """\
merge_method: dare_ties
base_model: o/b
models: [{model: o/x, parameters: {weight: {filter: mlp}, density: [{filter: x, value: 2}, 0.5]}}]
""",
        """\
3:44 node 'r': a condition of 'weight' has no 'value'
3:88 node 'r': parameter 'density' must be between 0 and 1, not 2
3:92 node 'r': parameter 'density' mixes conditions with plain values
  write '{filter: "*", value: ...}' for all other tensors
""",
    ),
    "choices": (
        """\
merge_method: dare_ties
base_model: o/b
models: [{model: o/x, parameters: {weight: 1}}]
parameters: {rescale: invers, normalize: 3, lambda: null}
""",
        """\
4:23 node 'r': parameter 'rescale' must be true or false or 'inverse', not the text 'invers'
  did you mean 'inverse'?
4:42 node 'r': parameter 'normalize' must be true or false, not the number 3
4:53 node 'r': parameter 'lambda' must be a number, not null
  leave the key out to get the default
""",
    ),
    "no base": (
        """\
merge_method: slerp
models: [{model: o/x}]
parameters: {t: 0.5}
""",
        """\
1:1 node 'r': 'slerp' needs a base
  name it under 'base_model:'
""",
    ),
    "counts": (
        """\
merge_method: slerp
base_model: o/b
models: [{model: o/x},{model: o/y},{model: o/b}]
""",
        """\
3:1 node 'r': 'slerp' merges exactly 1 model besides its base, not 2
3:1 node 'r': 'slerp' needs the parameter 't'
  give it under the node's 'parameters:'
""",
    ),
    "optional base": (
        """\
merge_method: nuslerp
models: [{model: o/x},{model: o/y},{model: o/b}]
parameters: {weight: 1}
""",
        """\
2:1 node 'r': 'nuslerp' merges exactly 2 models, not 3
  a base is named under 'base_model:', not listed among the models
""",
    ),
    "required per input": (
        """\
merge_method: linear
models: [{model: o/x, parameters: {weight: 1}},{model: o/y}]
""",
        """\
2:48 node 'r': model 'o/y' needs the parameter 'weight'
  give it under the model's 'parameters:', or under the node's for all models
""",
    ),
    "dtypes": (
        """\
merge_method: dare_ties
models: [{model: o/x}]
parameters: {seed: 1.5, weight: 1}
dtype: bf16
out_dtype: torch.float
base_model: o/b
""",
        """\
3:20 node 'r': parameter 'seed' must be a whole number, not the number 1.5
4:8 node 'r': unknown dtype 'bf16'
  did you mean 'bfloat16'?
5:12 node 'r': unknown out_dtype 'torch.float'
  did you mean 'float64'?
""",
    ),
    "exclusive": (
        """\
merge_method: dare_ties
models: [{model: o/x}]
parameters: {seed: [1, 2], weight: 1}
seed: 3
tokenizer_source: base
tokenizer: {source: union}
chat_template: chatlm
base_model: o/b
""",
        """\
3:20 node 'r': parameter 'seed' is a whole number and takes no gradient
4:1 node 'r': unknown key 'seed' in the configuration
  only native recipes have this key: add 'mergebuild: 1' and 'nodes:'
6:1 node 'r': 'tokenizer' and 'tokenizer_source' exclude each other
  put it into tokenizer: {source: ...}
7:16 node 'r': chat template 'chatlm' is neither known nor Jinja
  did you mean 'chatml'?
""",
    ),
    "layer ranges": (
        """\
merge_method: passthrough
slices:
- sources: [{model: o/x, layer_range: [0, 0]}]
- sources: [{model: o/x, layer_range: [-1, 3]}]
- sources: [{model: o/x, layer_range: 3}]
- source: []
- sources: [{model: o/x, layer_range: [4, 8]},{model: o/y, layer_range: [4, 9]}]
""",
        """\
3:39 node 'r': 'layer_range' [0, 0] has no layers
  [0, 16] means the layers 0 to 15
4:39 node 'r': 'layer_range' [-1, 3] is negative
  [0, 16] means the layers 0 to 15
5:39 node 'r': 'layer_range' must be two whole numbers
  [0, 16] means the layers 0 to 15
6:3 node 'r': unknown key 'source' in an entry of 'slices'
  did you mean 'sources'?
6:11 node 'r': 'sources' must not be empty
7:3 node 'r': 'passthrough' merges exactly 1 model, not 2
7:47 node 'r': the sources of a slice differ in length: [4, 8] and [4, 9]
  4 and 5 layers cannot be merged
""",
    ),
    "empty module": (
        """\
merge_method: passthrough
modules: {default: {}}
""",
        """\
2:11 node 'r': module 'default' must have one of 'slices' and 'models'
""",
    ),
    "empty modules": (
        """\
merge_method: passthrough
modules: {}
""",
        "2:10 node 'r': 'modules' must not be empty\n",
    ),
    "modules number": (
        """\
merge_method: passthrough
modules: 3
""",
        "2:10 node 'r': 'modules' must be a mapping, not the number 3\n",
    ),
    "two revisions": (
        """\
merge_method: passthrough
models: [{model: o/x@a@b}]
""",
        """\
2:18 node 'r': 'o/x@a@b' has more than one '@'
  write {model: {path: ..., revision: ...}, lora: {path: ...}}
""",
    ),
    "lora only": (
        """\
merge_method: passthrough
models: [{model: '+l'}]
""",
        """\
2:18 node 'r': '+l' is not a model reference
  the form is path_or_hub_id[@revision][+lora[@revision]]
""",
    ),
    "two pluses": (
        """\
merge_method: passthrough
models: [{model: a+b+c}]
""",
        """\
2:18 node 'r': 'a+b+c' has more than one '+'
  write {model: {path: ..., revision: ...}, lora: {path: ...}}
""",
    ),
    "unknown path": (
        """\
merge_method: passthrough
models: [{model: {model: {pth: x}}}]
""",
        """\
2:27 node 'r': unknown key 'pth' in 'model'
  did you mean 'path'?
""",
    ),
    "model and path": (
        """\
merge_method: passthrough
models: [{model: {path: x, model: y}}]
""",
        """\
2:18 node 'r': 'model' must have one of 'model' and 'path'
  write {model: {path: ..., revision: ...}, lora: {path: ...}}
""",
    ),
    "yes": (
        """\
merge_method: passthrough
models: [{model: yes}]
""",
        """\
2:18 node 'r': 'model' must be text, not the truth value yes
  put it in quotes: 'yes'
""",
    ),
    "nodes without version": (
        "nodes: {a: {}}",
        """\
1:1 'nodes' without 'mergebuild': native recipes say their version
  add 'mergebuild: 1' at the top
""",
    ),
    "version 2": (
        """\
mergebuild: 2
nodes: {}
""",
        """\
1:13 'mergebuild' must be 1, the version of the recipe language, not the number 2
  write 'mergebuild: 1'
""",
    ),
    "version true": (
        "mergebuild: true",
        """\
1:13 'mergebuild' must be 1, the version of the recipe language, not the truth value true
  write 'mergebuild: 1'
""",
    ),
    "no nodes": (
        "mergebuild: 1\n",
        """\
1:1 the recipe has no 'nodes'
  name its merges under 'nodes:'
""",
    ),
    "empty nodes": (
        """\
mergebuild: 1
nodes: {}
""",
        "2:8 'nodes' must not be empty\n",
    ),
    "empty node": (
        """\
mergebuild: 1
nodes: {a: {}}
""",
        """\
2:9 node 'a': 'merge_method' is missing
  known are: <methods>
2:9 node 'a': none of 'models', 'slices' and 'modules' is given
  list the models to merge under 'models:'
""",
    ),
    "node names": (
        """\
mergebuild: 1
nodes: {a: 3, ../b: {}}
""",
        """\
2:12 node 'a': the node must be a mapping, not the number 3
2:15 '../b' is not a name for a node
  use letters, digits, '.', '_' and '-', at most 100, and no '..'
""",
    ),
    "cycles": (
        """\
mergebuild: 1
nodes:
  a: {merge_method: passthrough, models: [{model: b}]}
  b: {merge_method: passthrough, models: [{model: a}]}
  c: {merge_method: passthrough, models: [{model: c}]}
""",
        """\
4:51 the nodes form a cycle: a -> b -> a
  a node can only use what is built before it
5:51 node 'c' uses itself
  name another node or a source
""",
    ),
    "sources": (
        """\
mergebuild: 1
sources: {wiz: o/x, a: o/y, c: wiz, 'b@': x/y}
nodes:
  a: {merge_method: passthrough, models: [{model: wizz}]}
""",
        """\
2:21 source 'a' has the name of a node
  rename one
2:32 source 'c' must be a path or a Hub id, not a name
  name 'wiz' itself instead
2:37 'b@' is not a name for a source
  use a name without '@', '+', '/' and '~'
4:51 node 'a': model 'wizz' is neither a node, a source nor a path
  did you mean 'wiz'?
""",
    ),
    "variables": (
        """\
mergebuild: 1
vars: {density: 0.3, bad: {}, 1x: 2, n: '${density}', l: [1,2]}
nodes:
  a:
    merge_method: passthrough
    models: [{model: 'o/${densty}'}]
    chat_template: '{{ ${x'
    description: 'a ${l}'
""",
        """\
2:27 variable 'bad' must be a scalar or a list of scalars, not a mapping
2:31 '1x' is not a name for a variable
  use letters, digits, '_' and '-', a letter first
2:41 variable 'n' uses '${', but variables do not speak of one another
  write its value out
6:22 undefined variable 'densty'
  did you mean 'density'?
7:20 '${' is not closed in '{{ ${x'
  close it with '}', or write '$${' for a literal '${'
8:18 variable 'l' is a list and cannot stand inside text
""",
    ),
    "node keys": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: passthrough
    models: [{model: o/x}]
    keep: nevr
    missing: 3
    seed: -1
    description: [1]
""",
        """\
6:11 node 'a': 'keep' must be one of 'cache', 'never', not the text 'nevr'
  did you mean 'never'?
7:14 node 'a': 'missing' must be one of 'copy', 'error', not the number 3
8:11 node 'a': 'seed' must be at least 0, not -1
9:18 node 'a': 'description' must be text, not a list
""",
    ),
    "filters": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: dare_ties
    base_model: o/b
    models: [{model: o/x, parameters: {wieght: 1, density: {filter: '/(a+)+/', value: 1}}}]
""",
        """\
6:40 node 'a': 'dare_ties' has no parameter 'wieght'
  did you mean 'weight'?
6:69 node 'a': filter '/(a+)+/' cannot be used: it may match for ages; repeat less, and no group
""",
    ),
    "bad regex": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: dare_ties
    base_model: o/b
    models: [{model: o/x, parameters: {weight: 1, density: {filter: '/(a/', value: 1}}}]
""",
        """\
6:69 node 'a': filter '/(a/' cannot be used: missing ), unterminated subpattern at position 0
""",
    ),
    "outputs list": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: passthrough
    models: [{model: o/x}]
outputs: [b, a, a]
""",
        """\
6:11 output 'b' is not a node
  known are: a
6:17 output 'a' is listed twice
  delete one of the two
""",
    ),
    "absolute output": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: passthrough
    models: [{model: o/x}]
outputs: {a: /abs}
""",
        """\
6:14 output folder '/abs' is not below the working directory
  give a relative folder without '..', for instance 'build/name'
""",
    ),
    "leaving output": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: passthrough
    models: [{model: o/x}]
outputs: {a: ../x, b: x}
""",
        """\
6:14 output folder '../x' is not below the working directory
  give a relative folder without '..', for instance 'build/name'
6:20 output 'b' is not a node
  known are: a
""",
    ),
    "empty outputs": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: passthrough
    models: [{model: o/x}]
outputs: {}
""",
        """\
6:10 'outputs' must not be empty
  leave it out for the default
""",
    ),
    "outputs number": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: passthrough
    models: [{model: o/x}]
outputs: 3
""",
        "6:10 'outputs' must be a mapping, not the number 3\n",
    ),
    "nested outputs": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: passthrough
    models: [{model: o/x}]
  b:
    merge_method: passthrough
    models: [{model: o/y}]
outputs: {a: x/y, b: x}
""",
        """\
9:19 outputs 'a' and 'b' share the folder 'x/y'
  give each output a folder of its own
""",
    ),
    "native documents": (
        """\
mergebuild: 1
nodes:
  a:
    merge_method: passthrough
    models: [{model: o/x}]
---
a: 1
""",
        """\
7:1 a native recipe is a single document
  put all nodes under its 'nodes:'
""",
    ),
    "unnamed twice": (
        """\
merge_method: passthrough
models: [{model: o/x}]
---
merge_method: passthrough
models: [{model: o/x}]
""",
        """\
4:1 more than one document has no 'name'
  give each stage a 'name:'; only the output goes without
""",
    ),
    "named twice": (
        """\
name: a
merge_method: passthrough
models: [{model: o/x}]
---
name: a
merge_method: passthrough
models: [{model: o/x}]
""",
        """\
5:7 two documents are named 'a'
  every document needs a name of its own
""",
    ),
    "document name": (
        """\
name: a/b
merge_method: passthrough
models: [{model: o/x}]
""",
        """\
1:7 'a/b' is not a name for a node
  use letters, digits, '.', '_' and '-', at most 100, and no '..'
""",
    ),
    "a revision of a node": (
        """\
name: a
merge_method: passthrough
models: [{model: b+o/l}]
---
name: b
merge_method: passthrough
models: [{model: a@r}]
""",
        """\
7:18 node 'b': node 'a' takes no revision
  only the Hub has revisions
""",
    ),
    "tokenizer": (
        """\
merge_method: passthrough
models: [{model: o/x}]
tokenizer:
  source: true
  pad_to_multiple_of: 0
  tokens:
    <s>: {source: zero, forc: true}
    b: {source: {kind: zer}}
    c: {source: {kind: zero, model: o/x}}
    d: {source: {kind: model_token, model: o/x}}
    e: {source: {kind: model_token, model: o/x, token_id: -2}}
""",
        """\
4:11 node 'r': 'source' must be text, not the truth value true
  put it in quotes: 'true'
5:23 node 'r': 'pad_to_multiple_of' must be at least 1, not 0
7:25 node 'r': unknown key 'forc' in token '<s>'
  did you mean 'force'?
8:17 node 'r': the source of token 'b' has no 'model'
8:24 node 'r': 'kind' must be one of 'model_token', 'zero', not the text 'zer'
  did you mean 'zero'?
9:30 node 'r': 'model' does not go with kind 'zero'
10:17 node 'r': the source of token 'd' must have one of 'token' and 'token_id'
11:59 node 'r': 'token_id' must be at least 0, not -2
""",
    ),
    "scalars": (
        """\
x: !!int abc
y: 0b_
? [a]
: 1
<<: 3
""",
        """\
1:4 'abc' is not a number that can be read
2:4 '0b_' is not a number that can be read
3:3 a key must be plain text
5:5 '<<' must be given a mapping or a list of mappings
  write '<<: *anchor' or '<<: [*one, *two]'
""",
    ),
}


def said(error: RecipeError) -> str:
    lines = []
    for problem in error.problems:
        assert problem.at is not None
        lines.append(f"{problem.at.line}:{problem.at.column} {problem.message}\n")
        if problem.hint:
            lines.append(f"  {problem.hint}\n")
    return "".join(lines)


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    text, expected = BAD[name]
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert said(caught.value) == expected.replace("<methods>", ", ".join(sorted(METHODS)))


# What is written, and which warnings it gets.
DOUBTFUL = {
    "near a node": (
        """\
name: wizard
merge_method: passthrough
models: [{model: o/x}]
---
merge_method: passthrough
models: [{model: wizrd}]
""",
        ["6:18 node 'r': model 'wizrd' is taken for a folder or Hub id"],
    ),
    "no effect": (
        """\
merge_method: dare_ties
base_model: o/b
models:
- {model: o/b, parameters: {weight: 1}}
- {model: o/x, parameters: {weight: 1, normalize: true, int8_mask: true, foo: 1}}
- {model: o/y, parameters: {weight: 1, foo: 1}}
""",
        [
            "4:29 node 'r': parameter 'weight' has no effect on the base 'o/b'",
            "5:40 node 'r': parameter 'normalize' has no effect on the single model 'o/x'",
            "5:57 node 'r': parameter 'int8_mask' has no effect under 'dare_ties'",
            "5:74 node 'r': 'dare_ties' has no parameter 'foo'; it is ignored",
        ],
    ),
    "ignored base": (
        "merge_method: passthrough\nbase_model: o/b\nmodels: [{model: o/x}]\n",
        ["2:13 node 'r': 'passthrough' has no base: 'o/b' is left out"],
    ),
    "residual weight": (
        "merge_method: passthrough\nslices:\n- {sources: [{model: o/x}], residual_weight: 1}\n",
        ["3:29 node 'r': 'residual_weight' has no effect"],
    ),
    "unused": (
        """\
mergebuild: 1
sources: {a: o/a}
vars: {v: 1}
nodes: {n: {merge_method: passthrough, models: [{model: o/x}]}}
""",
        ["2:14 source 'a' is not used", "3:8 variable 'v' is not used"],
    ),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful(name: str) -> None:
    text, expected = DOUBTFUL[name]
    warnings = parse(text).warnings
    assert [f"{w.at.line}:{w.at.column} {w.message}" for w in warnings if w.at] == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "cannot read the recipe '{path}': no such file or directory"),
        (b"a: 1\nb\xff", "{path}:2:2: the file is not text in UTF-8"),
        (b"\x7fELF\x00\x01", "{path}:1:1: character U+007F is not allowed in YAML"),
        (b" " * (1 << 23), "{path}:1:1: the file is larger than 1 MiB"),
    ],
)
def test_bad_files(data: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, methods=METHODS)
    assert str(caught.value).split("\n")[0] == "error: " + message.format(path=path)
