// Command warren-cni is warren's CNI plugin. Container runtimes execute it; see package cni.
package main

import (
	"fmt"
	"os"

	"github.com/warrennet/warren/cni"
	"github.com/warrennet/warren/internal/version"
)

func main() {
	if os.Getenv("CNI_COMMAND") == "" { // executed by a user, with or without --version
		fmt.Printf("warren-cni %s: a CNI plugin, executed by container runtimes; CNI versions %v\n", version.Version, cni.Versions)
		return
	}
	os.Exit(cni.Run(cni.Process{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout}))
}
