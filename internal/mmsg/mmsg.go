// Package mmsg has the structure of recvmmsg(2) and sendmmsg(2), which golang.org/x/sys/unix lacks. It makes no system call: the
// DNS server and the tunnel have different rules for waiting.
package mmsg

import "golang.org/x/sys/unix"

// Header is struct mmsghdr of 64-bit Linux.
type Header struct {
	unix.Msghdr
	Len uint32 // bytes that were received or sent
	_   [4]byte
}
