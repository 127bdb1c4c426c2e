package arch

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	glossary = "docs/glossary.md"
	// allow at the end of a line exempts it from the test of retired words.
	allow = "glossary:allow"
)

// firstCells are the first cells of the rows of the first table in a text, without its heading.
func firstCells(text string) (out []string) {
	n := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "|") {
			if n > 0 {
				break
			}
			continue
		}
		if n++; n > 2 {
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
			out = append(out, strings.TrimSpace(cell))
		}
	}
	return out
}

// retiredWords matches the words of the table "Retired words". A word counts if it is not part of a longer word, of an
// identifier in backticks, of a file name or of "other than".
func retiredWords(t *testing.T) *retired {
	t.Helper()
	var words []string
	for _, cell := range firstCells(section(t, document(t, glossary), "Retired words")) {
		for w := range strings.SplitSeq(cell, ",") {
			words = append(words, strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(w)), " ", `\s+`))
		}
	}
	if len(words) < 25 {
		t.Fatalf("%s retires %d words, expected at least 25", glossary, len(words))
	}
	return &retired{regexp.MustCompile(`(?i)(^|[^\w` + "`" + `.-])(` + strings.Join(words, "|") + `)($|[^\w` + "`" + `])`),
		regexp.MustCompile(`(?i)^\s*than\b`)}
}

type retired struct{ word, than *regexp.Regexp }

// find returns the first retired word in a text, "" if there is none.
func (r *retired) find(text string) string {
	for at := 0; at < len(text); {
		m := r.word.FindStringSubmatchIndex(text[at:])
		if m == nil {
			return ""
		}
		if !r.than.MatchString(text[at+m[5]:]) {
			return text[at+m[4] : at+m[5]]
		}
		at += m[5]
	}
	return ""
}

// files are the paths of this repository's files with an ending, relative to its root.
func files(t *testing.T, ending string) (out []string) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "../.." && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".github" || d.Name() == "bin"):
			return filepath.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, ending):
			rel, err := filepath.Rel("../..", path)
			out = append(out, rel)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// proseOf are the comments and string literals of a Go file by line.
func proseOf(t *testing.T, path string) map[int]string {
	t.Helper()
	src := []byte(document(t, path))
	set := token.NewFileSet()
	file := set.AddFile(path, -1, len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, scanner.ScanComments)
	out := map[int]string{}
	for {
		pos, tok, lit := s.Scan()
		switch tok {
		case token.EOF:
			return out
		case token.COMMENT, token.STRING:
			line := file.Line(pos)
			for i, text := range strings.Split(lit, "\n") {
				out[line+i] += text + "\n"
			}
		}
	}
}

func TestGlossary_GoCommentsAndStrings_HaveNoRetiredWord(t *testing.T) {
	r := retiredWords(t)
	for _, path := range files(t, ".go") {
		if path == filepath.Join("internal", "arch", "glossary_test.go") {
			continue
		}
		prose := proseOf(t, path)
		lines := strings.Split(document(t, path), "\n")
		for n, text := range prose {
			if w := r.find(text); w != "" && !strings.Contains(lines[n-1], allow) {
				t.Errorf("%s:%d: retired word %q: %s", path, n, w, strings.TrimSpace(text))
			}
		}
	}
}

// scripts are the manifests, units and scripts of this repository: every text file of these directories that is neither Go nor a list
// of modules.
func scripts(t *testing.T) (out []string) {
	t.Helper()
	for _, path := range files(t, "") {
		dir, _, _ := strings.Cut(filepath.ToSlash(path), "/")
		switch filepath.Ext(path) {
		case ".go", ".md", ".mod", ".sum":
			continue
		}
		if slices.Contains([]string{"deploy", "hack", "test", ".github", "Makefile"}, dir) && utf8.ValidString(document(t, path)) {
			out = append(out, path)
		}
	}
	if len(out) < 20 {
		t.Fatalf("found %d scripts and manifests, expected at least 20: %v", len(out), out)
	}
	return out
}

func TestGlossary_DocumentsAndScripts_HaveNoRetiredWord(t *testing.T) {
	r := retiredWords(t)
	for _, path := range append(files(t, ".md"), scripts(t)...) {
		if path == filepath.FromSlash(glossary) {
			continue
		}
		n := 0
		for line := range strings.Lines(document(t, path)) {
			n++
			if w := r.find(line); w != "" && !strings.Contains(line, allow) {
				t.Errorf("%s:%d: retired word %q: %s", path, n, w, strings.TrimSpace(line))
			}
		}
	}
}

func TestRetired_Find_WholeWordsOutsideOfCode(t *testing.T) {
	r := retiredWords(t)
	for text, want := range map[string]string{
		"it says so":                  "says",
		"Nobody is there":             "Nobody",
		"the  world":                  "the  world",
		"(way)":                       "way",
		"always, essay, gateway":      "",
		"the file `way` and way.go.":  "way",
		"the identifier `way`":        "",
		"rather elsewhere than here":  "",
		"elsewhere than here, a way.": "way",
		"half-way":                    "",
	} {
		if got := r.find(text); got != want {
			t.Errorf("%q: found %q, expected %q", text, got, want)
		}
	}
}

// logMethods are those of slog whose arguments after the message are keys and values.
var logMethods = map[string]int{"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0}

// attrFuncs make one attribute; the key is the first argument.
var attrFuncs = []string{"Any", "Bool", "Duration", "Float64", "Group", "Int", "Int64", "String", "Time", "Uint64"}

func TestGlossary_LogAttributeKeys_AreListed(t *testing.T) {
	known := map[string]bool{}
	for _, cell := range firstCells(section(t, document(t, glossary), "Log attribute keys")) {
		for _, m := range backticked.FindAllStringSubmatch(cell, -1) {
			known[m[1]] = true
		}
	}
	used := map[string]bool{}
	for _, path := range files(t, ".go") {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "test") {
			continue
		}
		for _, k := range logKeys(t, path) {
			used[k.key] = true
			if !known[k.key] {
				t.Errorf("%s:%d: %s does not list the log attribute key %q", path, k.line, glossary, k.key)
			}
		}
	}
	for k := range known {
		if !used[k] {
			t.Errorf("%s lists the log attribute key %q, which no log message has", glossary, k)
		}
	}
}

type logKey struct {
	key  string
	line int
}

// logKeys are the constant attribute keys in the calls of slog in a file. It recognises a call by the name of its method, the
// name of what it is called on (log, logger or slog), and a constant message.
func logKeys(t *testing.T, path string) (out []logKey) {
	t.Helper()
	src := document(t, path)
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		add := func(e ast.Expr) {
			if key, ok := constant(e); ok {
				out = append(out, logKey{key, set.Position(e.Pos()).Line})
			}
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == "slog" && slices.Contains(attrFuncs, sel.Sel.Name) && len(call.Args) > 0 {
			add(call.Args[0])
			return true
		}
		first, ok := logMethods[sel.Sel.Name]
		if !ok || !isLogger(sel.X) || first == 1 && len(call.Args) == 0 {
			return true
		}
		for i := first; i < len(call.Args); i++ {
			if _, ok := constant(call.Args[i]); !ok {
				continue // a slog.Attr, or a list
			}
			add(call.Args[i])
			i++
		}
		return true
	})
	return out
}

// isLogger reports whether an expression is a logger by its name, also as a field or the result of With.
func isLogger(e ast.Expr) bool {
	name := ""
	switch e := e.(type) {
	case *ast.Ident:
		name = e.Name
	case *ast.SelectorExpr:
		name = e.Sel.Name
	case *ast.CallExpr:
		sel, ok := e.Fun.(*ast.SelectorExpr)
		return ok && (sel.Sel.Name == "With" || sel.Sel.Name == "Default") && (isLogger(sel.X))
	}
	switch strings.ToLower(name) {
	case "log", "logger", "slog":
		return true
	}
	return false
}

func constant(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

func TestLogKeys_CallsOfSlog_AreFound(t *testing.T) {
	dir, err := os.MkdirTemp("../..", ".arch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	src := `package x
import "log/slog"
func f(a struct{ log *slog.Logger }, err error, list []any) {
	a.log.Info("message", "one", 1, slog.Int("two", 2), "three", "value")
	slog.With("four", 4).Error("message", "five", err)
	a.log.Warn("message", list...)
	other.Info("message", "none", 1)
}
`
	if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, k := range logKeys(t, filepath.Join(filepath.Base(dir), "x.go")) {
		keys = append(keys, k.key)
	}
	slices.Sort(keys)
	if want := []string{"five", "four", "one", "three", "two"}; !slices.Equal(keys, want) {
		t.Errorf("found %v, expected %v", keys, want)
	}
}
