package route

import (
	"bytes"
	"strings"
)

// canonical is the form of a path that rules are matched with: percent-encoded characters are decoded, except the slash and
// NUL, then repeated slashes are merged and dot segments removed (RFC 3986, section 6.2.2). So no spelling of a path avoids the
// rule for it. It allocates only for a path that is not in this form yet.
func canonical(path string) string {
	if isCanonical(path) {
		return path
	}
	if strings.IndexByte(path, '%') >= 0 {
		path = decode(path)
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	out := make([]byte, 0, len(path)+1)
	rest := path[1:]
	for {
		segment, after, more := strings.Cut(rest, "/")
		switch segment {
		case "", ".":
		case "..":
			if i := bytes.LastIndexByte(out, '/'); i >= 0 {
				out = out[:i]
			}
		default:
			out = append(append(out, '/'), segment...)
		}
		if !more {
			if segment == "" || segment == "." || segment == ".." {
				out = append(out, '/')
			}
			return string(out)
		}
		rest = after
	}
}

// isCanonical reports whether a path needs no change. It may report false for one that needs none either.
func isCanonical(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for i := range len(path) {
		switch path[i] {
		case '%':
			return false
		case '/', '.':
			if i > 0 && path[i-1] == '/' {
				return false
			}
		}
	}
	return true
}

// decode replaces percent-encoded bytes, except the slash, NUL and the percent sign itself.
func decode(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, ok1 := unhex(s[i+1])
			lo, ok2 := unhex(s[i+2])
			if c := hi<<4 | lo; ok1 && ok2 && c != '/' && c != 0 && c != '%' {
				out = append(out, c)
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
