! Sort, hash map, strings, matrix product, bits and floating point, with the intrinsic procedures.
module work
  use iso_fortran_env, only: int64, real64, real32
  implicit none
contains
  subroutine shell_sort(words)
    integer(int64), intent(inout) :: words(:)
    integer(int64) :: held
    integer :: gap, i, j
    gap = size(words) / 2
    do while (gap > 0)
      do i = gap + 1, size(words)
        held = words(i)
        j = i
        do while (j > gap)
          if (words(j - gap) <= held) exit
          words(j) = words(j - gap)
          j = j - gap
        end do
        words(j) = held
      end do
      gap = gap / 2
    end do
  end subroutine

  function bits(words) result(total)
    integer(int64), intent(in) :: words(:)
    integer(int64) :: total
    integer :: i
    total = 0
    do i = 1, size(words)
      total = total + popcnt(words(i)) + trailz(words(i)) + leadz(words(i))
      total = ieor(total, shiftr(words(i), int(iand(total, 63_int64))))
    end do
  end function

  subroutine multiply(a, b, c)
    real(real64), intent(in) :: a(:, :), b(:, :)
    real(real64), intent(out) :: c(:, :)
    integer :: i, j, k
    c = 0
    do j = 1, size(b, 2)
      do k = 1, size(b, 1)
        do i = 1, size(a, 1)
          c(i, j) = c(i, j) + a(i, k) * b(k, j)
        end do
      end do
    end do
  end subroutine
end module

program main
  use work
  implicit none
  integer(int64) :: words(2048), state
  integer :: slots(0:255), i
  real(real64) :: a(64, 64), b(64, 64), c(64, 64), d(64, 64)
  real(real32) :: f(1024)
  character(len=64) :: text, other
  state = command_argument_count() + 1
  slots = 0
  do i = 1, size(words)
    state = ieor(state, ishft(state, 13))
    state = ieor(state, ishft(state, -7))
    state = ieor(state, ishft(state, 17))
    words(i) = state
    slots(iand(int(state), 255)) = slots(iand(int(state), 255)) + 1
  end do
  call shell_sort(words)
  call random_number(a)
  call random_number(b)
  call multiply(a, b, c)
  d = matmul(a, b)
  call random_number(f)
  call get_command(text)
  other = adjustl(trim(text) // 'x')
  print *, c(1, 1) - d(1, 1), bits(words), sqrt(sum(f * f + 0.5)), maxval(slots), index(other, 'x'), sin(c(2, 2))
end program
