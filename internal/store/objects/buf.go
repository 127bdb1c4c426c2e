package objects

import (
	"bufio"
	"io"
)

// bufReader has room for the largest manifest, so that a line of that length is read at once.
func bufReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 64<<10) }
