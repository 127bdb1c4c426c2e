package arch

import (
	"go/scanner"
	"go/token"
	"strings"
	"testing"
	"unicode/utf8"
)

// maxColumns is the longest line of a Go file, with tabs of four columns.
const maxColumns = 140

// rawLines are the lines of a Go file that a raw string covers. They may be longer: scripts and manifests keep their own form.
func rawLines(src []byte) map[int]bool {
	set := token.NewFileSet()
	file := set.AddFile("", -1, len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, 0)
	out := map[int]bool{}
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return out
		}
		if tok == token.STRING && strings.HasPrefix(lit, "`") {
			first := file.Line(pos)
			for n := range strings.Count(lit, "\n") + 1 {
				out[first+n] = true
			}
		}
	}
}

func TestStyle_GoLines_FitTheColumns(t *testing.T) {
	for _, path := range files(t, ".go") {
		src := document(t, path)
		raw := rawLines([]byte(src))
		n := 0
		for line := range strings.Lines(src) {
			n++
			width := utf8.RuneCountInString(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    "))
			if width > maxColumns && !raw[n] {
				t.Errorf("%s:%d: %d columns, at most %d", path, n, width, maxColumns)
			}
		}
	}
}
