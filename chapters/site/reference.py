"""A Sphinx extension that writes the reference: every public name, from its docstring and source.

Name it in `extensions`; nothing else is needed. When a build starts, it writes the pages of the
reference into `api/`, each only if it changed, so that a build without changes reads none of them.
`docstrings` translates the docstrings, and `public_names` finds what is public.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from public_names import FACES, all_modules, assignment, described_classes
from reference_pages import OPERATORS, TENSOR, Pages
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

SETTINGS = {
    "add_function_parentheses": False,
    "autodoc_preserve_defaults": True,
    "autodoc_type_aliases": {"Array": "minidl.backends.Array", "Operand": "minidl.tensor.Operand"},
    "modindex_common_prefix": ["minidl."],
    "python_display_short_literal_types": True,
    "python_maximum_signature_line_length": 110,
    "python_trailing_comma_in_multi_line_signatures": False,
    "python_use_unqualified_type_names": True,
    "toc_object_entries_show_parents": "hide",
}

REFERENCE = re.compile(r"TypeAliasForwardRef\('([\w.]+)'\)")
BACK = re.compile(r'(<div class="viewcode-block" id="([^"]+)">\s*)<a class="viewcode-back".*?</a>')


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the reference to a build."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.viewcode")
    reference = Reference()
    app.add_css_file("reference.css")
    app.connect("config-inited", _configure)
    app.connect("config-inited", reference.write, priority=400)  # before `pages` links to them
    app.connect("env-before-read-docs", reference.forget_overloads)
    app.connect("autodoc-process-signature", _without_references)
    app.connect("autodoc-process-docstring", reference.translate)
    app.connect("viewcode-follow-imported", reference.source_of)
    app.connect("doctree-read", reference.resolve)
    app.connect("html-collect-pages", _all_sources, priority=400)  # before viewcode's, at 500
    app.connect("html-page-context", reference.link_back)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _configure(app: Sphinx, config: Any) -> None:
    for name, value in SETTINGS.items():
        setattr(config, name, value)


def _all_sources(app: Sphinx) -> list[Any]:
    """Have viewcode write the source of every module: other pages link to some without names."""
    modules = getattr(app.env, "_viewcode_modules", None)
    for name, path in all_modules().items() if modules else ():
        if not modules.get(name):
            modules[name] = (path.read_text(encoding="utf-8"), {}, {}, name)
    return []


def _without_references(
    app: Sphinx,
    what: str,
    name: str,
    thing: Any,
    options: Any,
    given: str | None,
    result: str | None,
) -> tuple[str, str] | None:
    """Name aliases that are part of other types, for which autodoc writes a Python object."""
    if not given or "TypeAliasForwardRef" not in f"{given}{result}":
        return None
    found = [REFERENCE.sub(r"\1", text or "") for text in (given, result)]
    return found[0], found[1]


class Reference:
    """What a build asks about the public names."""

    def __init__(self) -> None:
        self.pages = Pages()
        self.links = self.pages.links
        self.real = {
            f"{name.home}.{name.name}": name.same_as or name.path for name in self.pages.names
        }

    def write(self, app: Sphinx, config: Any) -> None:
        """Write the pages that changed, and remove those of modules that are gone."""
        folder = Path(app.srcdir) / "api"
        folder.mkdir(exist_ok=True)
        pages = dict(self.pages.all())
        for old in folder.glob("*.rst"):
            if old.stem not in pages:
                old.unlink()
        for page, lines in pages.items():
            path, text = folder / f"{page}.rst", "\n".join(lines) + "\n"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")

    def forget_overloads(self, app: Sphinx, env: Any, pages: list[str]) -> None:
        """Have functions shown with one signature, their own, which includes their overloads'."""
        if any(page.startswith("api/") for page in pages):
            for home in {name.home for name in self.pages.names if name.kind == "function"}:
                analyzer = ModuleAnalyzer.for_module(home)
                if "@overload" in analyzer.code:
                    analyzer.analyze()
                    analyzer.overloads.clear()

    def translate(
        self, app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
    ) -> None:
        """Replace a docstring by its translation to reStructuredText."""
        outer, _, last = name.rpartition(".")
        if outer == TENSOR and last in OPERATORS and not thing.__doc__:
            lines[:] = [f"{OPERATORS[last]}."]
        scope = name if inspect.isclass(thing) else outer
        face = self.links.faces.get(name) or max(
            (face for face in FACES if f"{name}.".startswith(f"{face}.")), key=len
        )
        translator = self.pages.translator(face, scope, thing)
        lines[:] = translator.lines(lines)
        if inspect.isclass(thing):  # the attributes of bases that have no page
            for base in described_classes(thing, self.links.public)[1:]:
                translator.lines((inspect.getdoc(base) or "").split("\n"))
                lines += translator.attributes

    def source_of(self, app: Sphinx, module: str | None, attribute: str) -> str | None:
        """Return the module that defines a public name or a member of it.

        viewcode looks for the name as it is documented: what has another name in the source is
        added under that name.
        """
        name = self.links.names.get(f"{module}.{attribute.partition('.')[0]}")
        if name is None:
            return None
        member = attribute.partition(".")[2]
        if not member:
            if name.kind == "data":
                node, _ = assignment(name.home, name.name)
                _tags(name.home)[attribute] = ("other", node.lineno, node.end_lineno or node.lineno)
            return name.home
        for part in described_classes(name.value, self.links.public):
            if member in vars(part):
                tags = _tags(part.__module__)
                found = tags.get(f"{part.__qualname__}.{member}")
                if found and (part is name.value or name.path == TENSOR):
                    tags[attribute] = found
                return part.__module__
        return None

    def resolve(self, app: Sphinx, tree: Any) -> None:
        """Give the types in signatures, which Sphinx searches for by ending, their full names."""
        for node in tree.findall(pending_xref):
            if node.get("refdomain") != "py" or "refspecific" not in node:
                continue
            target = node["reftarget"]
            near = self.links.names.get(f"{node.get('py:module')}.{target}")
            path = near.path if near else self.real.get(target) or self.links.short.get(target)
            if path:
                node["reftarget"] = self.links.full[path]
            del node["refspecific"]

    def link_back(self, app: Sphinx, page: str, template: str, context: Any, tree: Any) -> None:
        """Point the links in a page of source at the descriptions, whichever face has them."""
        if not page.startswith("_modules/") or "body" not in context:
            return
        module = page.removeprefix("_modules/").replace("/", ".")
        objects = app.env.domains["py"].objects  # type: ignore[attr-defined]

        def link(found: re.Match[str]) -> str:
            first, dot, rest = found[2].partition(".")
            described = objects.get(f"{self.real.get(f'{module}.{first}', '')}{dot}{rest}")
            if described is None:
                return found[1]
            address = f"{app.builder.get_relative_uri(page, described.docname)}#{described.node_id}"
            return f'{found[1]}<a class="viewcode-back" href="{address}">[docs]</a>'

        context["body"] = BACK.sub(link, context["body"])


def _tags(module: str) -> dict[str, tuple[str, int, int]]:
    """Return where the names of a module are defined; what is added stays for this build."""
    return ModuleAnalyzer.for_module(module).find_tags()
