package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/limpet-go/limpet/internal/tools/names"
)

// finding is one breach of a rule.
type finding struct {
	file string
	line int
	what string
	rule string
}

func (f finding) String() string {
	return fmt.Sprintf("%s:%d: %s (%s)", f.file, f.line, f.what, f.rule)
}

type goFile struct {
	name string
	ast  *ast.File
}

// tree is the text of the repository, read once.
type tree struct {
	names   []string // of all text files, sorted
	text    map[string]string
	goFiles []goFile
	fset    *token.FileSet
}

func (t *tree) line(p token.Pos) int { return t.fset.Position(p).Line }

// load reads the files whose text the rules look at. Folders that begin with a dot, other than
// .ci, and testdata are not ours to judge.
func load(fsys fs.FS) (*tree, error) {
	t := &tree{text: map[string]string{}, fset: token.NewFileSet()}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if d.IsDir() {
			if name != "." && (base[0] == '.' && base != ".ci" || base == "testdata" || base == "node_modules" || base == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || !isText(name) {
			return nil
		}
		b, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		t.names = append(t.names, name)
		t.text[name] = string(b)
		if strings.HasSuffix(name, ".go") {
			f, err := parser.ParseFile(t.fset, name, b, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			t.goFiles = append(t.goFiles, goFile{name, f})
		}
		return nil
	})
	return t, err
}

func isText(name string) bool {
	switch path.Ext(name) {
	case ".go", ".md", ".sh", ".pml", ".proto", ".yml", ".yaml":
		return true
	}
	return path.Base(name) == "Makefile" || path.Dir(name) == "ci" || path.Dir(name) == ".ci"
}

// rules in the order of CONTRIBUTING.md.
var rules = []struct {
	name  string
	check func(*tree) []finding
}{
	{"file-length", fileLength},
	{"names", ambiguousNames},
	{"sleep", sleep},
	{"unfinished", unfinished},
	{"machine-path", machinePath},
	{"protocol-section", protocolSection},
	{"proof", proof},
	{"link", link},
	{"phrases", phrases},
	{"most-names", boundNames},
}

const maxLines = 500

func fileLength(t *tree) (out []finding) {
	for _, f := range t.goFiles {
		if n := strings.Count(t.text[f.name], "\n"); n > maxLines {
			out = append(out, finding{file: f.name, line: n, what: fmt.Sprintf("%d lines, at most %d", n, maxLines)})
		}
	}
	return out
}

// maxAmbiguous is in percent of the unexported names of the root package.
const maxAmbiguous = 4

// ambiguousNames finds names of the root package that mean more than one sort of thing.
func ambiguousNames(t *tree) []finding {
	var root []*ast.File
	first := ""
	for _, f := range t.goFiles {
		if path.Dir(f.name) == "." && !strings.HasSuffix(f.name, "_test.go") {
			root = append(root, f.ast)
			first = cmp.Or(first, f.name)
		}
	}
	all := names.Of(root)
	if all.Percent() <= maxAmbiguous {
		return nil
	}
	return []finding{{file: first, line: 1, what: fmt.Sprintf("%.1f %% of the package's unexported names are two of method, function, type and field, at most %v %%: %s",
		all.Percent(), maxAmbiguous, strings.Join(all.Ambiguous(), " "))}}
}

// sleep finds time.Sleep outside tests: nothing can end such a wait. Of tests, internal/repo decides.
func sleep(t *tree) (out []finding) {
	for _, f := range t.goFiles {
		if strings.HasSuffix(f.name, "_test.go") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok || s.Sel.Name != "Sleep" {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" {
				out = append(out, finding{file: f.name, line: t.line(s.Pos()), what: "time.Sleep cannot be ended: use a timer"})
			}
			return true
		})
	}
	return out
}

var unfinishedRE = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b`)

func unfinished(t *tree) (out []finding) {
	for _, f := range t.goFiles {
		for _, g := range f.ast.Comments {
			for _, c := range g.List {
				if m := unfinishedRE.FindString(c.Text); m != "" {
					out = append(out, finding{file: f.name, line: t.line(c.Pos()), what: m + ": finish it, or say in a document that it is missing"})
				}
			}
		}
	}
	return out
}

var machinePathRE = regexp.MustCompile(`(^|[\s"'(=` + "`" + `])(/root/|/home/|/work/|/Users/)`)

func machinePath(t *tree) (out []finding) {
	for _, name := range t.names {
		if strings.HasPrefix(name, "internal/tools/rules/") {
			continue
		}
		out = append(out, match(t, name, machinePathRE, func(string) string { return "a path of one machine" })...)
	}
	return out
}

var (
	sectionRE  = regexp.MustCompile(`docs/protocol\.md, sections? ([0-9]+)`)
	protocolRE = regexp.MustCompile(`(?m)^## ([0-9]+) `)
)

// protocolSection finds citations of a section that the protocol does not have.
func protocolSection(t *tree) (out []finding) {
	have := map[string]bool{}
	for _, m := range protocolRE.FindAllStringSubmatch(t.text["docs/protocol.md"], -1) {
		have[m[1]] = true
	}
	for _, name := range t.names {
		if strings.HasPrefix(name, "internal/tools/rules/") {
			continue
		}
		out = append(out, match(t, name, sectionRE, func(m string) string {
			if n := sectionRE.FindStringSubmatch(m)[1]; !have[n] {
				return "docs/protocol.md has no section " + n
			}
			return ""
		})...)
	}
	return out
}

var testNameRE = regexp.MustCompile(`\b((?:Test|Fuzz|Example)[A-Z][A-Za-z0-9_]*)`)

// proof demands that the tests exist which the documents name as proofs.
func proof(t *tree) (out []finding) {
	have := map[string]bool{}
	for _, f := range t.goFiles {
		for _, d := range f.ast.Decls {
			if d, ok := d.(*ast.FuncDecl); ok && d.Recv == nil && strings.HasSuffix(f.name, "_test.go") {
				have[d.Name.Name] = true
			}
		}
	}
	for _, name := range []string{"docs/guarantees.md", "docs/ending.md", "docs/reconnect.md", "docs/field-reports.md"} {
		out = append(out, match(t, name, testNameRE, func(m string) string {
			if n := testNameRE.FindStringSubmatch(m)[1]; !have[n] {
				return "no test is called " + n
			}
			return ""
		})...)
	}
	return out
}

var linkRE = regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`)

// link finds relative links in documents to files and headings that do not exist.
func link(t *tree) (out []finding) {
	for _, name := range t.names {
		if path.Ext(name) != ".md" {
			continue
		}
		out = append(out, match(t, name, linkRE, func(m string) string {
			parts := linkRE.FindStringSubmatch(m)
			to, heading := path.Join(path.Dir(name), parts[1]), strings.TrimPrefix(parts[2], "#")
			if parts[1] == "" {
				to = name
			}
			if strings.Contains(parts[1], ":") {
				return ""
			}
			if text, ok := t.text[to]; ok {
				if heading != "" && path.Ext(to) == ".md" && !anchors(text)[heading] {
					return "links to #" + heading + ", and " + to + " has no such heading"
				}
				return ""
			}
			for _, n := range t.names {
				if strings.HasPrefix(n, to+"/") {
					return ""
				}
			}
			if !isText(to) {
				return "" // not read, so not known
			}
			return "links to " + to + ", which does not exist"
		})...)
	}
	return out
}

var (
	anchorRE   = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
	notSlugRE  = regexp.MustCompile(`[^\pL\pN\-_ ]`)
	linkTextRE = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// anchors returns the anchors of a document: what GitHub makes of its headings, and those that it sets itself.
func anchors(text string) map[string]bool {
	found, code := map[string]bool{}, false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			code = !code
		}
		for _, m := range anchorRE.FindAllStringSubmatch(line, -1) {
			found[m[1]] = true
		}
		title := strings.TrimLeft(line, "#")
		if code || title == line || title[0] != ' ' {
			continue
		}
		slug := linkTextRE.ReplaceAllString(strings.TrimSpace(title), "$1")
		slug = strings.ReplaceAll(notSlugRE.ReplaceAllString(strings.ToLower(slug), ""), " ", "-")
		for base, i := slug, 1; found[slug]; i++ {
			slug = fmt.Sprintf("%s-%d", base, i)
		}
		found[slug] = true
	}
	return found
}

// match applies say to every match of re in a file; a non-empty answer is a finding.
func match(t *tree, name string, re *regexp.Regexp, say func(string) string) (out []finding) {
	for i, l := range strings.Split(t.text[name], "\n") {
		for _, m := range re.FindAllString(l, -1) {
			if what := say(m); what != "" {
				out = append(out, finding{file: name, line: i + 1, what: what})
			}
		}
	}
	return out
}
