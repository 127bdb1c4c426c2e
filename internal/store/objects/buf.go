package objects

import (
	"bufio"
	"io"
)

// bufReader is as large as a manifest may be, so that a line of that length is read whole.
func bufReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 64<<10) }
