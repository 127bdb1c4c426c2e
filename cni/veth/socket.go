package veth

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// socket is a routing netlink socket of one network namespace. It sends requests in batches: one sendmsg for many
// requests. The kernel executes them in order before the call returns. Not for concurrent use.
type socket struct {
	fd  int
	seq uint32
	buf []byte
}

// replyTimeout bounds the wait for a reply. The kernel has finished when sendmsg returns, so it passes only after an
// overflow of the receive buffer.
const replyTimeout = 10 // seconds

// open opens a socket in the network namespace of the calling thread.
func open() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	// Both are optional: an error text from the kernel, and acknowledgements without a copy of the request.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	// Optional: with strict checking the kernel filters dumps by interface and table.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: replyTimeout}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &socket{fd: fd, buf: make([]byte, 32<<10)}, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// do sends the requests as one batch and returns the first failure. The kernel executes also the requests after a failed
// one; the caller's undo covers them.
func (s *socket) do(batch ...*message) error {
	first := s.seq + 1
	var out []byte
	for _, m := range batch {
		s.seq++
		out = append(out, m.seal(s.seq)...)
	}
	if err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send %d netlink requests: %w", len(batch), err)
	}
	var failed error
	for left := len(batch); left > 0; {
		err := s.receive(func(typ uint16, seq uint32, body []byte) {
			i := seq - first
			if i >= uint32(len(batch)) {
				return // a late reply to an earlier batch
			}
			m := batch[i]
			if typ != unix.NLMSG_ERROR {
				m.got = append([]byte(nil), body...)
				return
			}
			left--
			if err := acknowledgement(body); err != nil && err.errno != m.tolerate && failed == nil {
				failed = fmt.Errorf("%s: %w", m.what, err)
			}
		})
		if err != nil {
			return fmt.Errorf("%s: wait for the kernel's reply: %w", batch[len(batch)-left].what, err)
		}
	}
	return failed
}

// dump sends one request for a list and calls each for every object.
func (s *socket) dump(m *message, each func(body []byte)) error {
	s.seq++
	if err := unix.Sendto(s.fd, m.seal(s.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("%s: %w", m.what, err)
	}
	var failed error
	for done := false; !done; {
		err := s.receive(func(typ uint16, seq uint32, body []byte) {
			switch {
			case seq != s.seq || done:
			case typ == unix.NLMSG_DONE:
				done = true
			case typ == unix.NLMSG_ERROR:
				done = true
				if err := acknowledgement(body); err != nil {
					failed = fmt.Errorf("%s: %w", m.what, err)
				}
			default:
				each(body)
			}
		})
		if err != nil {
			return fmt.Errorf("%s: wait for the kernel's reply: %w", m.what, err)
		}
	}
	return failed
}

// receive reads one datagram and calls each for every message.
func (s *socket) receive(each func(typ uint16, seq uint32, body []byte)) error {
	n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	for b := s.buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			break
		}
		typ := binary.NativeEndian.Uint16(b[4:])
		if typ == unix.NLMSG_ERROR && binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_ACK_TLVS == 0 && size >= unix.SizeofNlMsghdr+4 {
			each(typ, binary.NativeEndian.Uint32(b[8:]), b[unix.SizeofNlMsghdr:unix.SizeofNlMsghdr+4])
		} else {
			each(typ, binary.NativeEndian.Uint32(b[8:]), b[unix.SizeofNlMsghdr:size])
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// kernelError is an errno with the kernel's error text, where there is one (NLMSGERR_ATTR_MSG).
type kernelError struct {
	errno unix.Errno
	text  string
}

func (e *kernelError) Error() string {
	if e.text == "" {
		return e.errno.Error()
	}
	return e.errno.Error() + " (" + e.text + ")"
}

func (e *kernelError) Unwrap() error { return e.errno }

// acknowledgement parses the body of NLMSG_ERROR: errno, header of the request, optional attributes. It returns nil for
// success.
func acknowledgement(body []byte) *kernelError {
	if len(body) < 4 {
		return &kernelError{errno: unix.EBADMSG}
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code == 0 {
		return nil
	}
	e := &kernelError{errno: unix.Errno(-code)}
	if len(body) > 4+unix.SizeofNlMsghdr {
		attrs(body[4+unix.SizeofNlMsghdr:], func(typ uint16, v []byte) {
			if typ == 1 && len(v) > 1 { // NLMSGERR_ATTR_MSG
				e.text = string(v[:len(v)-1])
			}
		})
	}
	return e
}
