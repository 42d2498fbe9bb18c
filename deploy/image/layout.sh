#!/bin/sh
# Installs one part of Sparsewalk as the images hold it: a virtual environment without pip, and a copied tree.
#
#   layout.sh FOLDER serving|serving-gpu|training|video|video-ray [dependencies|code]
#
#   FOLDER/venv     the dependencies of pyproject.toml's extras, in the versions of constraints.txt
#   FOLDER/app      the packages of that part, and no others; PYTHONPATH names this folder
#   FOLDER/bin      what containers run beside the program: health.py, fetch_models.py
#   FOLDER/models   the released models, where the repository has them
#
# The Dockerfile runs it twice, for a layer that seldom changes and one that often does; without the third argument it
# does both. No container engine is needed, nor root. PYTHON names the interpreter (python3): the one that FOLDER/venv
# will run, so it must be where the layout is used.
set -eu

die() {
  echo "layout.sh: $1" >&2
  exit 2
}

[ $# -ge 2 ] || die "expected FOLDER and a part. Received: $*"
folder=$1 part=$2 step=${3:-all}
python=${PYTHON:-python3}
source=$(cd "$(dirname "$0")/../.." && pwd)
case $part in
  serving) extras=serving,tracing packages=serving ;;
  serving-gpu) extras=serving,tracing,gpu packages=serving ;;
  training) extras=training packages=training ;;
  video) extras=serving,tracing,video packages=serving ;;
  # With Ray's dashboard, through which KubeRay submits jobs.
  video-ray) extras=serving,tracing,video,ray packages=serving also='ray[default]' ;;
  *) die "expected serving, serving-gpu, training, video or video-ray. Received: $part" ;;
esac
case $step in all | dependencies | code) ;; *) die "expected dependencies or code. Received: $step" ;; esac
case $folder in /*) ;; *) folder=$PWD/$folder ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pip_into_venv() {
  "$python" -m pip --python "$folder/venv/bin/python" install --quiet --disable-pip-version-check \
    --no-compile "$@"
}

# Hashes instead of times: the files may be copied, and nobody can write new ones where they run.
compile() {
  "$folder/venv/bin/python" -m compileall -q --invalidation-mode unchecked-hash "$@"
}

# Readable by whoever runs it, writable by nobody.
seal() {
  chmod -R a+rX,a-w "$@"
}

dependencies() {
  mkdir -p "$folder"
  "$python" -m venv --without-pip "$folder/venv"
  # A package of no modules, only for its extras.
  mkdir "$work/extras"
  cp "$source/pyproject.toml" "$source/README.md" "$source/LICENSE" "$work/extras"
  pip_into_venv --constraint "$source/constraints.txt" --constraint "$source/deploy/image/constraints-gpu.txt" \
    --constraint "$source/deploy/image/constraints-ray.txt" "$work/extras[$extras]" ${also:+"$also"}
  "$python" -m pip --python "$folder/venv/bin/python" uninstall --quiet --disable-pip-version-check --yes \
    --root-user-action ignore sparsewalk
  case $part in
    # The plug-ins of ONNX Runtime for NVIDIA GPUs: 285 MB that a machine without one cannot use.
    serving-gpu) ;;
    *)
      find "$folder/venv" \( -name 'libonnxruntime_providers_cuda.so' -o -name 'libonnxruntime_providers_tensorrt.so' \) \
        -delete ;;
  esac
  compile "$folder/venv/lib"
  seal "$folder/venv"
}

code() {
  mkdir "$work/code"
  cp "$source/pyproject.toml" "$source/README.md" "$source/LICENSE" "$work/code"
  for package in $packages; do
    cp -R "$source/$package" "$work/code/$package"
  done
  for old in app bin models; do
    [ ! -e "${folder:?}/$old" ] || { chmod -R u+w "$folder/$old" && rm -rf "${folder:?}/$old"; }
  done
  "$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
    --root-user-action ignore --target "$folder/app" "$work/code"
  compile "$folder/app"
  mkdir "$folder/bin" "$folder/models"
  cp "$source/deploy/image/health.py" "$source/deploy/image/fetch_models.py" "$folder/bin"
  if [ "$packages" = serving ] && [ -d "$source/deploy/models" ]; then
    cp -R "$source/deploy/models/." "$folder/models"
  fi
  seal "$folder/app" "$folder/bin" "$folder/models"
}

[ "$step" = code ] || dependencies
[ "$step" = dependencies ] || code
