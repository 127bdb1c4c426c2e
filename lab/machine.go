package lab

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// startMachine makes the namespaces of a machine: a process that holds them, with its own /etc (an overlay), /run and
// /var/lib.
func (l *Lab) startMachine(name string) error {
	dir := l.machineDir(name)
	for _, d := range []string{"run", "lib", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	ready, done, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(l.Exe, "lab", "hold", dir, name)
	cmd.Env, cmd.Stdout, cmd.Dir = l.environ(nil), done, "/"
	log, err := os.Create(filepath.Join(dir, "hold.log"))
	if err != nil {
		done.Close()
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	for _, ns := range namespaces {
		cmd.SysProcAttr.Cloneflags |= uintptr(ns.flag)
	}
	err = cmd.Start()
	done.Close()
	if err != nil {
		return fmt.Errorf("start machine %s: %w", name, err)
	}
	go func() { _ = cmd.Wait() }()
	if err := l.keepPid(name, "hold", cmd.Process.Pid); err != nil {
		return err
	}
	if line, err := bufio.NewReader(ready).ReadString('\n'); err != nil || line != "ready\n" {
		raw, _ := os.ReadFile(log.Name())
		return fmt.Errorf("machine %s did not come up: %s", name, raw)
	}
	return nil
}

// Hold is the process that holds a machine's namespaces. It is started inside them, makes the private mounts, prints a line to
// stdout and waits for its end.
func Hold(dir, name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := privateEtc(filepath.Join(dir, "etc"), name); err != nil {
		return err
	}
	for _, m := range []struct{ from, to string }{{"run", "/run"}, {"lib", "/var/lib"}} {
		if err := unix.Mount(filepath.Join(dir, m.from), m.to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount private %s: %w", m.to, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	fmt.Println("ready")
	os.Stdout.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	return nil
}

// privateEtc mounts a writable layer over /etc that only this machine has. The layer is a tmpfs, because an overlay
// cannot have its writable part on an overlay, which / may be.
func privateEtc(dir, name string) error {
	if err := unix.Mount("warren-lab", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs %s: %w", dir, err)
	}
	up, work := filepath.Join(dir, "up"), filepath.Join(dir, "work")
	if err := errors.Join(os.Mkdir(up, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+up+",workdir="+work); err != nil {
		return fmt.Errorf("mount overlay /etc: %w", err)
	}
	// The CNI configuration of the machine itself must not be visible to the node.
	for _, d := range []string{"/etc/cni", "/etc/warren"} {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/etc/cni/net.d", 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll("/etc/warren", 0o700); err != nil {
		return err
	}
	return os.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644)
}

// hold returns the pid that holds a machine's namespaces.
func (l *Lab) hold(machine string) (int, error) {
	if pid := l.Pid(machine, "hold"); pid != 0 {
		return pid, nil
	}
	if err := l.checkMachine(machine); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("machine %s of lab %s is not running", machine, l.Name)
}

// mac is a machine's MAC address: locally administered, with the host number in the last byte.
func mac(name string) net.HardwareAddr {
	kind := byte(1)
	if name[0] == 'e' {
		kind = 2
	}
	return net.HardwareAddr{0x02, 0x57, 0, 0, kind, hostNumber(name)}
}
