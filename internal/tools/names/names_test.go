package names

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
)

const source = `package a

type queue struct {
	open, size int
	inner      struct{ deep int }
	embedded
	Exported int
	_        int
}

type embedded struct{ queue *queue }

type reader interface{ read() }

func (q *queue) open() {}
func (q *queue) Shown() {}
func size() { type read struct{ deep int } }
`

func TestOf(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "a.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	all := Of([]*ast.File{f})
	for name, want := range map[string]string{
		"queue": "type, field", "open": "method, field", "size": "function, field", "inner": "field",
		"deep": "field", "embedded": "type", "reader": "type", "read": "method, type",
		"Exported": "", "Shown": "", "_": "",
	} {
		if got := all[name].String(); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if want := []string{"open", "queue", "read", "size"}; !slices.Equal(all.Ambiguous(), want) {
		t.Errorf("ambiguous: %v, want %v", all.Ambiguous(), want)
	}
	if len(all) != 8 || all.Percent() != 50 || all.Letters() != 5 {
		t.Errorf("%d names, %v %% ambiguous, %v letters", len(all), all.Percent(), all.Letters())
	}
}
