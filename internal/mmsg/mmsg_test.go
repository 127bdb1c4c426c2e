package mmsg

import (
	"net"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel writes the length of the second message at the place that the structure has for it.
func TestHeader_TwoMessages_KernelFillsBothLengths(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, text := range []string{"one", "three"} {
		if _, err := c.WriteTo([]byte(text), c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var buf [2][16]byte
	var iov [2]unix.Iovec
	var in [2]Header
	for i := range in {
		iov[i].Base = &buf[i][0]
		iov[i].SetLen(len(buf[i]))
		in[i].Iov = &iov[i]
		in[i].SetIovlen(1)
	}
	got := 0
	err = raw.Read(func(fd uintptr) bool {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&in[got])), uintptr(len(in)-got),
			unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			got += int(n)
		}
		return got == len(in) || errno != 0 && errno != unix.EAGAIN
	})
	if err != nil || got != len(in) || in[0].Len != 3 || in[1].Len != 5 {
		t.Errorf("%d messages with the lengths %d and %d, error %v", got, in[0].Len, in[1].Len, err)
	}
}
