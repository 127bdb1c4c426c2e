package wire

import (
	"encoding/binary"
	"io"
)

// ReadFrame reads a message with its length prefix of two bytes (RFC 1035 section 4.2.2), into buf when it is large enough.
func ReadFrame(r io.Reader, buf []byte) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > cap(buf) {
		buf = make([]byte, n)
	}
	_, err := io.ReadFull(r, buf[:n])
	return buf[:n], err
}

// WriteFrame writes a message with its length prefix.
func WriteFrame(w io.Writer, body []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(body)), uint16(len(body))), body...))
	return err
}
