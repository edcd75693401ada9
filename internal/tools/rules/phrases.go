package main

import (
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// translated are phrases that read as translated, each as a regular expression that ignores case.
// They are phrases and not words, because most of their words are fine elsewhere: "at most", "no
// longer", "back off". A space stands for any white space, line breaks included.
var translated = []string{
	`\b(is|are|was|were|be|been|being|not|never|it|them|he|they) told\b`,
	`\btold (as|of|so|by|twice|again|what|how|that|when|before|after|once|here|it|the)\b`,
	`\b(say|says|said|saying|tell|tells|telling) the truth\b`,
	`\bso (long|many)\b`,
	`\banew\b`,
	`\b(no|every|some|any)body('s)?\b`,
	`\bheart-beats?\b`,
	`\bback-offs?\b`,
	`\b(has|have|had) to say\b`,
	`\bthe word of\b`,
	`\b\w+'s (say|word)\b`,
	`\bhas no say\b`,
	`\b(that|which|who|it|they) (is|are|was|were) no more( ?$|[^\w ]| [^t])`,
	`\b(that|which|who|it|what) (is|was|are) no ([^lm ]|l[^o ]|m[^o ])`,
	`\bno news\b`,
	`\b(has|have|had|been|is|are) heard of\b`,
	`\bwithout a word\b`,
	`\bfor want of\b`,
	`\bin good order\b`,
	`\b(the|its|a) present (connection|attempt|wait|frame|message|session|one|epoch|client|state)\b`,
	`\bupside down\b`,
	`\bas little as\b`,
}

var translatedRE = regexp.MustCompile(`(?i)(` + strings.Join(translated, "|") + `)`)

// phrases finds translated phrases in the comments of Go files and in documents.
func phrases(t *tree) (out []finding) {
	report := func(name string, p *prose) {
		for _, m := range translatedRE.FindAllStringIndex(p.text.String(), -1) {
			what := strconv.Quote(strings.TrimSpace(p.text.String()[m[0]:m[1]])) + " reads as translated: use the usual words"
			out = append(out, finding{file: name, line: p.lineAt(m[0]), what: what})
		}
	}
	for _, f := range t.goFiles {
		if strings.HasPrefix(f.name, "internal/tools/rules/") {
			continue
		}
		for _, g := range f.ast.Comments {
			p := &prose{}
			for _, c := range g.List {
				for i, l := range strings.Split(c.Text, "\n") {
					p.add(strings.Trim(l, "/* \t"), t.line(c.Pos())+i)
				}
			}
			report(f.name, p)
		}
	}
	for _, name := range t.names {
		if path.Ext(name) != ".md" {
			continue
		}
		p := &prose{}
		for i, l := range strings.Split(t.text[name], "\n") {
			p.add(l, i+1)
		}
		report(name, p)
	}
	return out
}

// prose is a text whose lines are joined, so that a phrase may run over the end of a line but not
// over an empty line.
type prose struct {
	text   strings.Builder
	starts []int // where the lines begin in text
	lines  []int // their numbers
}

func (p *prose) add(line string, number int) {
	p.starts = append(p.starts, p.text.Len())
	p.lines = append(p.lines, number)
	words := strings.Fields(line)
	if len(words) == 0 {
		p.text.WriteByte('\n')
		return
	}
	p.text.WriteString(strings.Join(words, " ") + " ")
}

func (p *prose) lineAt(offset int) int {
	i, found := slices.BinarySearch(p.starts, offset)
	if !found {
		i--
	}
	return p.lines[i]
}

// boundNames finds identifiers such as mostBuffer: the usual prefix of a bound is max.
func boundNames(t *tree) (out []finding) {
	for _, f := range t.goFiles {
		seen := map[string]bool{}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok || seen[id.Name] {
				return true
			}
			rest, ok := strings.CutPrefix(id.Name, "most")
			if ok && rest != "" && unicode.IsUpper(rune(rest[0])) {
				seen[id.Name] = true
				out = append(out, finding{file: f.name, line: t.line(id.Pos()), what: id.Name + ": call it max" + rest})
			}
			return true
		})
	}
	return out
}
