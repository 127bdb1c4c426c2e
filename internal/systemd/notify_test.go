package systemd

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNotify_SocketOfEachKind_ReceivesTheState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	for _, name := range []string{file, "@" + file} {
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("NOTIFY_SOCKET", name)
		Notify(Ready)
		buf := make([]byte, 100)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
			t.Errorf("%s received %q, %v", name, buf[:n], err)
		}
		c.Close()
		Notify(Stopping) // no receiver
	}
	t.Setenv("NOTIFY_SOCKET", "")
	Notify(Ready)
}

// The service manager receives the descriptor with its name, and the instruction to remove it.
func TestStore_Descriptor_SentWithName(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: file, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", file)
	fds := []int{0, 0}
	if err := unix.Pipe2(fds, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if err := (Store{}).Store("dns.udp4.10.43.0.10_53", fds[1]); err != nil {
		t.Fatal(err)
	}
	buf, oob := make([]byte, 100), make([]byte, 100)
	n, oobn, _, _, err := manager.ReadMsgUnix(buf, oob)
	if err != nil || string(buf[:n]) != "FDSTORE=1\nFDPOLL=0\nFDNAME=dns.udp4.10.43.0.10_53" {
		t.Fatalf("received %q, %v", buf[:n], err)
	}
	control, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(control) != 1 {
		t.Fatalf("%d control messages, %v", len(control), err)
	}
	got, err := unix.ParseUnixRights(&control[0])
	if err != nil || len(got) != 1 {
		t.Fatalf("descriptors %v, %v", got, err)
	}
	defer unix.Close(got[0])
	if _, err := unix.Write(got[0], []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(fds[0], buf); err != nil || n != 1 {
		t.Errorf("read %d bytes from the pipe, %v", n, err)
	}
	if err := (Store{}).Remove("a"); err != nil {
		t.Fatal(err)
	}
	if n, err := manager.Read(buf); err != nil || string(buf[:n]) != "FDSTOREREMOVE=1\nFDNAME=a" {
		t.Errorf("received %q, %v", buf[:n], err)
	}
}

// A process that has received descriptors takes them by name, once.
func TestInherited_DescriptorsPassed_TakenByName(t *testing.T) {
	if os.Getenv("TEST_INHERITED") != "" {
		got := Inherited()
		again := Inherited()
		fmt.Printf("%d %d ", len(got), len(again))
		for name, fd := range got {
			_, err := unix.Write(fd, []byte(name+"\n"))
			fmt.Print(err)
		}
		os.Exit(0)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// The shell gives the process its own number, as the service manager does.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run=TestInherited`, os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_INHERITED=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=one:one")
	cmd.ExtraFiles = []*os.File{w, w}
	out, err := cmd.Output()
	w.Close()
	if err != nil || string(out) != "1 0 <nil>" {
		t.Fatalf("printed %q, %v", out, err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "one\n" {
		t.Errorf("the descriptor received %q, %v", b, err)
	}
}
