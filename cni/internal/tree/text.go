package tree

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// escape reads what follows a backslash.
func (p *parser) escape(b []byte) []byte {
	p.at++
	const from, to = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if i := strings.IndexByte(from, p.peek()); i >= 0 && p.at < len(p.data) {
		p.at++
		return append(b, to[i])
	}
	if !p.take('u') {
		p.fail("an escape")
		return b
	}
	r := p.hex4()
	if utf16.IsSurrogate(r) {
		mark := p.at
		low := rune(utf8.RuneError)
		if p.take('\\') && p.take('u') && p.err == nil {
			low = p.hex4()
		}
		if full := utf16.DecodeRune(r, low); full != utf8.RuneError {
			return utf8.AppendRune(b, full)
		}
		if p.err == nil { // half a pair stands for nothing; what follows is read on its own
			p.at = mark
		}
		r = utf8.RuneError
	}
	return utf8.AppendRune(b, r)
}

func (p *parser) hex4() (r rune) {
	for range 4 {
		switch c := p.peek(); {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			p.fail("a hexadecimal digit")
			return 0
		}
		p.at++
	}
	return r
}

// Writer appends a JSON text. Calls follow the text's order; it puts the commas.
type Writer struct{ b []byte }

// Bytes is what was written.
func (w *Writer) Bytes() []byte { return w.b }

func (w *Writer) comma() {
	if n := len(w.b); n > 0 && w.b[n-1] != '{' && w.b[n-1] != '[' && w.b[n-1] != ':' {
		w.b = append(w.b, ',')
	}
}

// Name begins an object's field.
func (w *Writer) Name(s string) *Writer {
	w.Text(s)
	w.b = append(w.b, ':')
	return w
}

// Object writes an object whose fields fill writes; Array writes a list.
func (w *Writer) Object(fill func()) { w.open('{', '}', fill) }

// Array writes a list whose items fill writes.
func (w *Writer) Array(fill func()) { w.open('[', ']', fill) }

func (w *Writer) open(begin, end byte, fill func()) {
	w.comma()
	w.b = append(w.b, begin)
	fill()
	w.b = append(w.b, end)
}

// Raw writes a value that is JSON already.
func (w *Writer) Raw(v []byte) {
	w.comma()
	w.b = append(w.b, v...)
}

// Text writes a string. Bytes that are no UTF-8 become U+FFFD.
func (w *Writer) Text(s string) {
	w.comma()
	const hex = "0123456789abcdef"
	w.b = append(w.b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			w.b = append(w.b, '\\', byte(r))
		case r < ' ':
			w.b = append(w.b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			w.b = utf8.AppendRune(w.b, r)
		}
	}
	w.b = append(w.b, '"')
}

// Texts writes a list of strings.
func (w *Writer) Texts(list []string) {
	w.Array(func() {
		for _, s := range list {
			w.Text(s)
		}
	})
}
