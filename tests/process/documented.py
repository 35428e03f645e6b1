"""Values that a JSON schema of the OpenAPI document allows, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MOST = 2**70


def values(schema: dict[str, Any], schemas: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return what `schema` allows; `schemas` are those that it may refer to."""
    if "$ref" in schema:
        return values(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return st.one_of([values(one, schemas) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        return _objects(schema, schemas)
    if kind == "array":
        return st.lists(values(schema.get("items") or {}, schemas), max_size=3)
    if kind in ("integer", "number"):
        return _numbers(schema, whole=kind == "integer")
    if kind == "string":
        if "pattern" in schema:
            return st.from_regex(schema["pattern"])
        return st.text(max_size=20)
    return {"boolean": st.booleans(), "null": st.none()}.get(kind or "", JSON)


def _numbers(schema: dict[str, Any], *, whole: bool) -> st.SearchStrategy[Any]:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -MOST))
    most = schema.get("maximum", schema.get("exclusiveMaximum", MOST))
    if not whole:
        return st.floats(least, most)
    step = schema.get("multipleOf", 1)
    return st.integers(-(-least // step), most // step).map(lambda n: n * step)


def _objects(schema: dict[str, Any], schemas: dict[str, Any]) -> st.SearchStrategy[Any]:
    fields = {name: values(one, schemas) for name, one in schema.get("properties", {}).items()}
    if not fields:
        return st.dictionaries(st.text(max_size=8), JSON, max_size=3)
    required = {name: fields.pop(name) for name in schema.get("required", ()) if name in fields}
    return st.fixed_dictionaries(required, optional=fields)
